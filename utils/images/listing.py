"""Which files of a folder are images: by extension, and where that says nothing by content."""
from __future__ import annotations

import glob
import itertools
import logging
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path

from utils.images import pack as packs
from utils.images.decode import shown
from utils.images.image_list import is_list, read_list
from utils.system import READ_NOW
from utils.text import counted

logger = logging.getLogger("facezoo")
_looked_through: set[str] = set()
# Of each format the extensions that its files have.
EXTENSIONS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"), "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"), "WEBP": (".webp",), "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"), "AVIF": (".avif", ".avifs"),
    "ICO": (".ico",), "PCX": (".pcx",), "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "QOI": (".qoi",), "PSD": (".psd",)}
if find_spec("PIL._avif") is None:      # a Pillow that was built without it
    del EXTENSIONS_OF["AVIF"]
IMAGE_EXTENSIONS = frozenset(itertools.chain(*EXTENSIONS_OF.values()))
# Of files that lie beside images and are nobody's image; their content is not looked at.
_OTHERS = frozenset((
    ".txt", ".md", ".rst", ".html", ".htm", ".css", ".js", ".json", ".jsonl", ".csv", ".tsv",
    ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".db", ".py", ".pyc", ".ipynb", ".sh",
    ".bat", ".m", ".mat", ".npy", ".npz", ".pkl", ".pth", ".pt", ".ckpt", ".onnx", ".safetensors",
    ".h5", ".lmdb", ".mdb", ".tfrecord", ".parquet", ".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2",
    ".7z", ".rar", ".bin", ".idx", ".pts", ".mp3", ".wav", ".srt", ".xmp", ".bak", ".tmp", ".part",
    ".lock", ".sha256", ".md5"))
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a",
           b"\0\0\0\x0cjP  \r\n\x87\n")


def root_of(source: str | Path) -> Path:
    """The folder below which `list_images` finds images: the one that a list names, or itself."""
    return read_list(source)[0] if is_list(source) else Path(source)


def list_images(folder: str | Path, recursive: bool = True) -> list[Path]:
    """Image files of a folder, sorted by relative path; hidden ones are left out.

    The extension decides. A file of an unknown one counts if it begins as a JPEG, PNG, GIF, WebP,
    JPEG 2000 or AVIF file does.

    Links are followed, loops broken. A link that leads nowhere is listed: reading it reports it.

    Args:
        folder: may also be a pack (utils.images.pack), or a list of images
            (utils.images.image_list), all of whose names count.

    Raises:
        ValueError: the folder is missing, is no folder, or holds no image.
    """
    if is_list(folder):
        root, names = read_list(folder)
        return [root / name for name in names]
    folder = Path(folder)
    if (pack := packs.open_pack(folder)) is not None:
        return [folder / name for name in pack.names if recursive or "/" not in name]
    if not folder.exists():
        raise ValueError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, got a file")
    found: list[str] = []
    num_others = 0
    for name, is_file in _files_below(folder, recursive):
        if is_file and _is_image(folder, name):
            found.append(name)
        else:
            num_others += not name.endswith("/")
    if not found:
        raise ValueError(f"{folder} has no image among {counted(num_others, 'file')}; "
                         f"images end in {', '.join(sorted(IMAGE_EXTENSIONS))}")
    return [folder / name for name in sorted(found)]


def left_out(pattern: str | Path, read_too: Collection[str] = ()) -> str:
    """A sentence on what `find_images` leaves out where it looks: folders that cannot be read, and
    images and videos of a kind that is not read; "" where there is nothing.

    Args:
        read_too: extensions that the caller reads, too.
    """
    path = Path(pattern)
    if is_list(path) or path.is_file() or packs.open_pack(path) is not None:
        return ""
    closed: list[str] = []
    if path.is_dir():
        below = list(_files_below(path, True))
        names = [name for name, is_file in below if is_file and not _is_image(path, name)]
        closed = sorted(name[:-1] for name, _ in below if name.endswith("/"))
    else:
        names = [match for match in glob.glob(str(pattern), recursive=True)
                 if os.path.isfile(match) and not _is_image(Path(), match)]
    kinds = Counter(_suffix(name) for name in names)
    kinds = {kind: number for kind, number in sorted(kinds.items())
             if kind and kind not in _OTHERS and kind not in read_too}
    said = []
    if closed:
        said.append(f"{counted(len(closed), 'folder')} in {pattern} cannot be read: "
                    + ", ".join(closed[:5]) + (" ..." if len(closed) > 5 else ""))
    if kinds:
        number = sum(kinds.values())
        said.append(f"{counted(number, 'file')} in {pattern} {'is' if number == 1 else 'are'} left "
                    "out, because the kind is not read: "
                    + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    return shown("; ".join(said))


def warn_left_out(source: str | Path) -> None:
    """Log what `left_out` says; a source is gone through once, however many splits ask."""
    if str(source) in _looked_through:
        return
    _looked_through.add(str(source))
    if missed := left_out(source):
        logger.warning(missed)


def find_images(pattern: str | Path) -> tuple[Path, list[Path]]:
    """Images named by one file, a folder (with its subfolders), a list, a pack or a glob such as
    `a/*.png`.

    Returns:
        (root, paths): every path lies under root, so relative names are distinct. A file that is
        named itself counts whatever its extension; one that ends in .txt is a list.

    Raises:
        ValueError: nothing there, or nothing that is an image.
    """
    path = Path(pattern)
    if path.is_dir() or is_list(path):
        return root_of(path), list_images(path)
    if path.exists():       # before globbing: a file may be called `photo[1].jpg`
        return path.parent, [path]
    if not glob.has_magic(str(pattern)):
        raise ValueError(f"{pattern}: no such file or folder")
    matches = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True))
    paths = [match for match in matches if match.is_file() and _is_image(Path(), str(match))]
    if not paths:
        raise ValueError(f"{pattern} matches no image among {counted(len(matches), 'file')}; "
                         f"images end in {', '.join(sorted(IMAGE_EXTENSIONS))}")
    fixed = next(at for at, part in enumerate(path.parts) if glob.has_magic(part))
    return Path(*path.parts[:fixed]), paths


def _files_below(folder: Path, recursive: bool) -> Iterator[tuple[str, bool]]:
    """Names below a folder that are not hidden, and whether each is a file or a link.

    A folder inside that cannot be read, such as `lost+found` of a disk, is one name with a slash.
    """
    seen, queue = set(), [""]
    while queue:
        inside = queue.pop()
        real = os.path.realpath(folder / inside)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder / inside) as opened:
                entries = list(opened)
        except OSError:
            if not inside:
                raise
            yield inside, False
            continue
        for entry in entries:
            name = f"{inside}{entry.name}"
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                queue += [f"{name}/"] if recursive else []
            else:
                yield name, entry.is_symlink() or entry.is_file()


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:     # a link that leads to itself
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_image(folder: Path, name: str) -> bool:
    """By extension; a file of an unknown one is an image if it begins as an image does."""
    suffix = _suffix(name)
    return suffix in IMAGE_EXTENSIONS or (suffix not in _OTHERS and _begins_as_image(folder / name))


def _begins_as_image(path: Path) -> bool:
    """Whether the content is of a format that cannot be mistaken; cameras' raw files are TIFFs."""
    try:
        file = os.open(path, READ_NOW)
    except OSError:
        return False
    try:
        start = os.read(file, 12) if stat.S_ISREG(os.fstat(file).st_mode) else b""
    except OSError:
        return False
    finally:
        os.close(file)
    return start.startswith(_STARTS) or start[4:] in (b"ftypavif", b"ftypavis") or (
        start.startswith(b"RIFF") and start[8:] == b"WEBP")
