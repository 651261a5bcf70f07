"""Files that are either complete or untouched."""
from __future__ import annotations

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

MOST_EXPANSION = 4      # bytes in memory for each byte of a weight file


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], None],
                     previous: str | Path | None = None) -> None:
    """Write a file under a temporary name, flush it to disk, then put it in place.

    Args:
        write: called with the open binary file.
        previous: name under which the file replaced is kept.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; `path` is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, because a name that just fits would not with more around it.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:50]}.", suffix=".tmp",
                                         dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())      # mkstemp makes private files
        if previous is not None and path.exists():
            link = path.with_name(f".{path.name}.link")     # so that `path` exists at every instant
            link.unlink(missing_ok=True)
            link_or_copy(path, link)
            os.replace(link, previous)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise


def check_folder(folder: Path) -> None:
    """Make the folder if it is missing and write to it, before hours of work want to.

    Raises:
        OSError: it takes no files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def _flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def link_or_copy(path: Path, other: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(path, other)
    except OSError:     # e.g. on a mounted object store
        import shutil
        shutil.copyfile(path, other)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically; stray bytes of file names are escaped."""
    data = text.encode(errors="backslashreplace")
    write_atomically(path, lambda file: file.write(data) and None)


def to_json(value: Any, indent: int | None = 1) -> str:
    """JSON text; JSON knows no infinity and no NaN, so they become the texts "inf" and "nan"."""
    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(entry) for key, entry in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(entry) for entry in item]
        return str(item) if isinstance(item, float) and not math.isfinite(item) else item
    return json.dumps(plain(value), indent=indent)


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, or nested deeper than any that is meant well.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns, by which a changed file is recognized."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def is_zip(path: str | Path) -> bool:
    """Whether a file is a zip archive.

    Raises:
        ValueError: it ends as one, but damaged.
    """
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged; {error}") from error


def check_expansion(path: Path) -> None:
    """Raise ValueError if what a zip holds is much larger than the file."""
    if not is_zip(path):
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
        if not any(Path(record.filename).name == "data.pkl" for record in archive.infolist()):
            raise ValueError(f"{path} is a zip archive of other files, not PyTorch weights; "
                             "unpack it first")
    if unpacked > MOST_EXPANSION * size:
        raise ValueError(f"{path} has {size} bytes but would take {unpacked} in memory, more than "
                         f"{MOST_EXPANSION} times as many")


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    import hashlib
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
