"""Packs: a folder's images decoded into few large files, for storage slow at many small ones.

    pack.json           {"format", "version", "complete", "settings", "shards": {file: bytes},
                        "pictures": {name: row of COLUMNS}, "bad": {name: reason}}
    shard_00000.bin     image after image, the bytes of uint8 (H, W, 3), or of (H, W) where the
                        three channels are equal; can be mapped with np.memmap
    shard_00000.json    its rows of the table; a shard without was not finished and does not count

`utils.images.io` reads the images of a pack as if they lay in its folder.
"""
from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from utils.files import parse_json, stamp_of, write_atomically, write_text
from utils.lock import held
from utils.system import read_at

INDEX = "pack.json"
FORMAT, VERSION = "facezoo-pack", 1
COLUMNS = ("shard", "offset", "height", "width", "channels", "crc", "source_bytes",
           "source_mtime_ns")
OPEN_FILES = 64
MAX_SIDE = 1 << 20      # pixels
# See `utils.files.stamp_of`.
Stamp = tuple[int, int]
Row = list[int]


class Pack:
    """A finished pack, opened for reading; may be used in many processes and threads.

    Raises:
        ValueError: unfinished, of another version, or a shard is missing or has another size.
    """

    def __init__(self, folder: Path) -> None:
        index = read_index(folder)
        if index.get("version") != VERSION:
            raise ValueError(f"{folder} must be a pack of version {VERSION}, got version "
                             f"{index.get('version')}; make the pack again with prepare.py pack")
        if not index.get("complete"):
            raise ValueError(f"{folder}: the pack is not finished; run prepare.py pack again")
        if wrong := _fault_of(index):
            raise ValueError(f"{folder / INDEX} is damaged ({wrong}); make the pack again with "
                             "prepare.py pack")
        self.folder, self.settings, self.bad = folder, index["settings"], index["bad"]
        self._files = [folder / name for name in index["shards"]]
        for path, size in zip(self._files, index["shards"].values(), strict=True):
            found = path.stat().st_size if path.is_file() else 0
            if found != size:
                raise ValueError(f"{folder}: the pack is damaged, {path.name} has {found} of "
                                 f"{size} bytes; make the pack again with prepare.py pack")
        self._row_of = {name: at for at, name in enumerate(index["pictures"])}
        # An array takes a fraction of the memory of lists, and every worker has one.
        self._rows = np.array(list(index["pictures"].values()), np.int64).reshape(-1, len(COLUMNS))
        self._open = lru_cache(maxsize=OPEN_FILES)(lambda shard: open(self._files[shard], "rb"))

    @property
    def names(self) -> list[str]:
        """Names of all images, those that could not be packed among them, sorted."""
        return sorted([*self._row_of, *self.bad])

    def read(self, name: str, verify: bool = False) -> np.ndarray:
        """An image, uint8 (H, W, 3).

        Args:
            verify: compare its checksum, too.

        Raises:
            ValueError: not in the pack, unreadable when it was packed, or damaged.
        """
        if name in self.bad:
            raise ValueError(self.bad[name])
        if name not in self._row_of:
            raise ValueError(f"the pack {self.folder} has no such image")
        shard, offset, *shape, crc, _, _ = self._rows[self._row_of[name]].tolist()
        # Neither a position, which forked processes would share, nor a map, where a file cut
        # short ends the process.
        length = shape[0] * shape[1] * shape[2]
        file = self._open(shard)        # held, so that no other thread's opening closes it
        data = read_at(file, length, offset)
        if len(data) != length or (verify and zlib.crc32(data) != crc):
            raise ValueError(f"the image is damaged in {self._files[shard]}; make the pack again "
                             "with prepare.py pack")
        image = np.frombuffer(data, np.uint8).reshape(shape)
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if shape[2] == 1 else image.copy()


# ---- finding -------------------------------------------------------------------------------------

_opened: dict[str, tuple[Pack, Stamp]] = {}


def open_pack(folder: str | Path) -> Pack | None:
    """The pack in a folder, or None if it is an ordinary one.

    Raises:
        ValueError: as `Pack`.
    """
    key = str(folder)
    try:
        stamp = stamp_of(Path(folder) / INDEX)
    except OSError:
        _opened.pop(key, None)
        return None
    if key in _opened and _opened[key][1] == stamp:
        return _opened[key][0]
    _opened.pop(key, None)
    if not read_index(Path(folder)):
        return None
    _opened[key] = Pack(Path(folder)), stamp
    return _opened[key][0]


def pack_around(path: str | Path, look: bool = False) -> tuple[Pack, str] | None:
    """The pack whose folder is above a path, and the image's name in it.

    Args:
        look: search the disk, too, and not only among packs this process has opened.
    """
    if not _opened and not look:
        return None
    for folder in Path(path).parents:
        pack = open_pack(folder) if look else _opened.get(str(folder), (None,))[0]
        if pack is not None:
            return pack, Path(path).relative_to(folder).as_posix()
    return None


def stamp_or_none(path: Path) -> list[int] | None:
    """The stamp as JSON keeps it; of an image in a pack its index's; None of one that is gone."""
    try:
        return list(stamp_of(path))
    except OSError:
        pass
    try:
        held = pack_around(path, look=True)
        return list(stamp_of(held[0].folder / INDEX)) if held else None
    except (OSError, ValueError):       # of a pack that cannot be used
        return None


def read_index(folder: Path) -> dict[str, Any]:
    """The content of pack.json, or {} if there is none, or one of another program."""
    try:
        content = parse_json((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / INDEX} is damaged ({error}); make the pack again with "
                         "prepare.py pack") from error
    is_index = isinstance(content, dict) and content.get("format") == FORMAT
    return content if is_index else {}


def _fault_of(index: dict[str, Any]) -> str:
    """What is wrong with a finished pack's index; "" if names and numbers stay in their bounds.

    Names must not lead out of any folder, since images are extracted and cached under them.
    """
    kinds = {"settings": dict, "bad": dict, "shards": dict, "pictures": dict}
    for key, kind in kinds.items():
        if not isinstance(index.get(key), kind):
            return f"{key} must be an object"
    shards, pictures = index["shards"], index["pictures"]
    for name, size in shards.items():
        if not re.fullmatch(r"shard_\d{5,9}\.bin", name):
            return f"the shard {name!r} has a strange name"
        if not (type(size) is int and 0 <= size < 1 << 62):
            return f"the size of {name} must be a number of bytes"
    strange = next((name for name in itertools.chain(pictures, index["bad"])
                    if not _stays_inside(name)), None)
    if strange is not None:
        return f"the image name {strange!r} leads out of the pack"
    if not all(isinstance(reason, str) for reason in index["bad"].values()):
        return "bad must hold texts"
    return _fault_of_rows(pictures.values(), list(shards.values()))


def _stays_inside(name: str) -> bool:
    return bool(name) and not name.startswith("/") and not {"\\", "\0", ":"} & set(name) and all(
        part not in ("", ".", "..") for part in name.split("/"))


def _fault_of_rows(rows: Iterable[Any], sizes: list[int]) -> str:
    """What is wrong with rows of COLUMNS, for shards of these sizes; "" if nothing is."""
    rows = list(rows)
    if not all(isinstance(row, list) and len(row) == len(COLUMNS)
               and all(type(value) is int and abs(value) < 1 << 62 for value in row)
               for row in rows):
        return f"each image must have {len(COLUMNS)} whole numbers"
    if not rows:
        return ""
    shard, offset, height, width, channels, *_ = np.array(rows, np.int64).T
    if ((shard < 0) | (shard >= len(sizes))).any():
        return "an image lies in a shard that is not there"
    if (min(offset.min(), height.min() - 1, width.min() - 1) < 0 or height.max() > MAX_SIDE
            or width.max() > MAX_SIDE or not np.isin(channels, (1, 3)).all()):
        return "an image has an impossible size"
    end = offset + height * width * channels
    if (end > np.array(sizes, np.int64)[shard]).any():
        return "an image reaches beyond its shard"
    order = np.lexsort((offset, shard))
    same = shard[order][1:] == shard[order][:-1]
    if (same & (offset[order][1:] < end[order][:-1])).any():
        return "two images overlap"
    return ""


# ---- writing -------------------------------------------------------------------------------------

def write_pack(folder: Path, sources: Mapping[str, Stamp], settings: dict[str, Any],
               decode: Callable[[list[str]], Iterable[tuple[str, np.ndarray | str]]],
               shard_bytes: int) -> tuple[int, dict[str, str]]:
    """Make or complete a pack; what finished shards hold of unchanged images is kept.

    Args:
        sources: every image's name and stamp.
        settings: noted in the pack; one with others is refused.
        decode: gives, for names, each with its image or the reason why there is none.
        shard_bytes: a shard is finished once it is as long.

    Returns:
        How many images were packed now, and which could not be, with the reason.

    Raises:
        ValueError: the folder holds a pack with other settings, or something that is no pack.
    """
    with held(folder, f"--output {folder}"):
        return _write_pack(folder, sources, settings, decode, shard_bytes)


def _write_pack(folder: Path, sources: Mapping[str, Stamp], settings: dict[str, Any],
                decode: Callable[[list[str]], Iterable[tuple[str, np.ndarray | str]]],
                shard_bytes: int) -> tuple[int, dict[str, str]]:
    index = read_index(folder)
    if not index and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"--output must be an empty folder or a pack, got {folder}")
    if index and (index.get("version"), index.get("settings")) != (VERSION, settings):
        raise ValueError(f"--output {folder} is a pack of version {index.get('version')} with "
                         f"{index.get('settings')}, not {VERSION} with {settings}; choose another "
                         "folder")
    for path in folder.glob(".shard_*.tmp"):       # of a run that was killed
        path.unlink()
    rows = _finished_rows(folder, sources)
    waiting = [name for name in sources if name not in rows]
    bad: dict[str, str] = {}
    if (index.get("complete") and not waiting and not index["bad"]
            and index["pictures"].keys() == rows.keys()):
        return 0, bad
    head = {"format": FORMAT, "version": VERSION, "settings": settings}
    write_text(folder / INDEX, json.dumps({**head, "complete": False}) + "\n")
    for number, shard_rows in _write_shards(folder, _good(decode(waiting), bad), sources,
                                            shard_bytes):
        rows |= {name: [number, *row] for name, row in shard_rows.items()}
    used = sorted({row[0] for row in rows.values()})
    place = {number: at for at, number in enumerate(used)}
    names = [_shard(folder, number).name for number in used]
    write_text(folder / INDEX, json.dumps({
        **head, "complete": True,
        "shards": {name: (folder / name).stat().st_size for name in names},
        "pictures": {name: [place[row[0]], *row[1:]] for name, row in sorted(rows.items())},
        "bad": bad}) + "\n")
    for path in folder.glob("shard_*.bin"):
        if path.name not in names:          # nothing in it is of use any more
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink()
    return len(waiting) - len(bad), bad


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:05d}.bin"


def _finished_rows(folder: Path, sources: Mapping[str, Stamp]) -> dict[str, Row]:
    """Rows, with their shard's number, of what is packed already and still the same."""
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob("shard_*.json")):
        data, name = path.with_suffix(".bin"), re.fullmatch(r"shard_(\d{5,9})", path.stem)
        if not name or not data.is_file():
            continue
        number, size = int(name[1]), data.stat().st_size
        try:
            shard = parse_json(path.read_text(encoding="utf-8"))
            if shard["bytes"] != size or _fault_of_rows(
                    ([0, *row] for row in shard["pictures"].values()), [size]):
                continue
        except (ValueError, TypeError, KeyError, AttributeError):
            continue        # damaged: its images are packed again
        rows |= {name: [number, *row] for name, row in shard["pictures"].items()
                 if sources.get(name) == tuple(row[-2:])}
    return rows


def _good(decoded: Iterable[tuple[str, np.ndarray | str]], bad: dict[str, str]
          ) -> Iterator[tuple[str, np.ndarray]]:
    for name, image in decoded:
        if isinstance(image, str):
            bad[name] = image
        else:
            yield name, image


def _write_shards(folder: Path, images: Iterator[tuple[str, np.ndarray]],
                  sources: Mapping[str, Stamp], shard_bytes: int
                  ) -> Iterator[tuple[int, dict[str, Row]]]:
    """Write shard after shard; gives each one's number and rows once it is on disk."""
    taken = [int(path.stem.removeprefix("shard_")) for path in folder.glob("shard_*.json")]
    for number in itertools.count(max(taken, default=-1) + 1):
        first = next(images, None)
        if first is None:
            return
        rows: dict[str, Row] = {}
        rest = itertools.chain([first], images)
        path = _shard(folder, number)
        write_atomically(path, lambda file, rest=rest, rows=rows: _fill(
            file, rest, rows, sources, shard_bytes))
        write_text(path.with_suffix(".json"), json.dumps(
            {"bytes": path.stat().st_size, "pictures": rows}) + "\n")
        yield number, rows


def _fill(file: IO[bytes], images: Iterator[tuple[str, np.ndarray]], rows: dict[str, Row],
          sources: Mapping[str, Stamp], shard_bytes: int) -> None:
    offset = 0
    for name, image in images:
        is_gray = bool((image == image[..., :1]).all())
        data = np.ascontiguousarray(image[..., :1] if is_gray else image).tobytes()
        rows[name] = [offset, *image.shape[:2], 1 if is_gray else 3, zlib.crc32(data),
                      *sources[name]]
        file.write(data)
        offset += len(data)
        if offset >= shard_bytes:
            return
