"""Images on disk; only this package knows OpenCV's BGR order. Arrays are uint8 RGB (H, W, 3)."""
from __future__ import annotations

import glob
import io
import os
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image

from utils.files import write_atomically
from utils.images import pack as packs
from utils.images.image_list import is_list, read_list
from utils.text import counted

IMAGE_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff",
                              ".ppm", ".pgm", ".gif", ".jp2"))
MAX_PIXELS = 178_956_970    # where Pillow, too, begins to refuse
MAX_BYTES = 1 << 31         # of a file; 16-bit color of so many pixels takes half
# Named because the content decides, not the extension: Pillow's EPS reader would start Ghostscript.
READ_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000")
_WRITE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP",
                  ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM"}
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}


class BadImage(ValueError):
    """A file that cannot be used as an image; the message is `<file>: <reason>`."""


class TooManyPixels(BadImage):
    """An image that is not decoded because of its size."""


def shown(path: str | Path) -> str:
    """A path on one line that can be printed: line breaks and stray bytes are escaped."""
    text = str(path)
    return text if text.isprintable() else "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def root_of(source: str | Path) -> Path:
    """The folder below which `list_images` finds images: the one that a list names, or itself."""
    return read_list(source)[0] if is_list(source) else Path(source)


def list_images(folder: str | Path, recursive: bool = True) -> list[Path]:
    """Image files of a folder (by extension), sorted by relative path; hidden ones are left out.

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
    num_others, seen, queue = 0, set(), [""]
    while queue:
        inside = queue.pop()
        real = os.path.realpath(folder / inside)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    queue += [f"{name}/"] if recursive else []
                elif _is_image_name(name) and (entry.is_symlink() or entry.is_file()):
                    found.append(name)
                else:
                    num_others += 1
    if not found:
        raise ValueError(f"{folder} has no image among {counted(num_others, 'file')}; "
                         f"images end in {', '.join(sorted(IMAGE_EXTENSIONS))}")
    return [folder / name for name in sorted(found)]


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
    paths = [match for match in matches if _is_image_name(match.name) and match.is_file()]
    if not paths:
        raise ValueError(f"{pattern} matches no image among {counted(len(matches), 'file')}; "
                         f"images end in {', '.join(sorted(IMAGE_EXTENSIONS))}")
    fixed = next(at for at, part in enumerate(path.parts) if glob.has_magic(part))
    return Path(*path.parts[:fixed]), paths


def read_image(path: str | Path, verify: bool = False) -> np.ndarray:
    """Decode an image of any common kind to uint8 RGB (H, W, 3), upright.

    The content decides, not the extension. Alpha is dropped, the EXIF orientation applied, an
    animation gives its first frame. Of 16-bit samples the high byte is kept; floating-point ones
    are taken as 0..1, or as 0..255 if they exceed 2.

    Args:
        verify: compare the checksum of an image that comes from a pack.

    Raises:
        BadImage: unreadable, empty, truncated, too large, NaN, or no image.
    """
    held = packs.pack_around(path)
    try:
        data = b"" if held else _bytes_of(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        held = _pack_instead(path)
        if held is None:
            raise BadImage(f"{shown(path)}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise BadImage(f"{shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    if held is not None:
        try:
            return held[0].read(held[1], verify)
        except (OSError, ValueError) as error:
            raise BadImage(f"{shown(path)}: {error}") from error
    if not data:
        raise BadImage(f"{shown(path)}: empty file (0 bytes)")
    if data.startswith(b"version https://git-lfs"):
        raise BadImage(f"{shown(path)}: this is a Git LFS pointer, not the image; "
                       "run `git lfs pull`")
    return decode_image(data, path)


def decode_image(data: bytes, name: str | Path) -> np.ndarray:
    """The image in the bytes of a file, as `read_image` gives it; `name` is for messages.

    Raises:
        BadImage: as `read_image`.
    """
    def pixels() -> np.ndarray:
        found = _decode_plain_jpeg(data) if _is_plain_jpeg(data) else None
        return _decode(data) if found is None else found
    return _checked(pixels, data, name)


def image_size(data: bytes, name: str | Path) -> tuple[int, int]:
    """Width and height by the header, nothing decoded; those of an image that EXIF turns are
    as they are stored.

    Raises:
        BadImage: no image of a known format; TooManyPixels: more than MAX_PIXELS.
    """
    return _checked(lambda: _open(data).size, data, name)


def write_image(path: str | Path, image: np.ndarray, quality: int = 95) -> None:
    """Write a uint8 RGB (H, W, 3) or gray (H, W) array; the extension chooses the format.

    The file appears complete or not at all. Missing folders are created. `quality` (1..100) is
    used by JPEG, without chroma subsampling, and WebP.

    Raises:
        ValueError: unknown extension, or not such an array.
    """
    path = Path(path)
    file_format = _WRITE_FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ValueError(f"{path}: the extension must be one of {', '.join(_WRITE_FORMATS)}, got "
                         f"{path.suffix or 'none'}")
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ValueError(f"{path}: the image must be a uint8 array (H, W, 3) or (H, W), got "
                         f"{image.dtype} {image.shape}")
    write_atomically(path, lambda file: _save(file, image, file_format, quality))


def encode_image(image: np.ndarray, extension: str, quality: int = 95) -> bytes:
    """The bytes that `write_image` would write to a file of this extension, such as `.png`."""
    file = io.BytesIO()
    _save(file, image, _WRITE_FORMATS[extension], quality)
    return file.getvalue()


def _pack_instead(path: str | Path) -> tuple[packs.Pack, str] | None:
    try:
        return packs.pack_around(path, look=True)
    except ValueError as error:
        raise BadImage(f"{shown(path)}: {error}") from error


def _bytes_of(path: str | Path) -> bytes:
    """Content of a regular file; others, such as pipes behind a link, might never end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("this is not a regular file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"the file has {found.st_size} bytes; the limit is {MAX_BYTES}")
        return file.read()


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:     # a link that leads to itself
        return False


def _is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _is_plain_jpeg(data: bytes) -> bool:
    """Complete, 8 bits, three channels, of a sane size, and without an EXIF block."""
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(b"\xff\xd9"):
        return False
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker == 0xE1:              # APP1: EXIF, which may turn the image
            return False
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return bits == 8 and channels == 3 and 0 < height * width <= MAX_PIXELS
        at += 2 + length
    return False


def _decode_plain_jpeg(data: bytes) -> np.ndarray | None:
    """OpenCV takes two thirds of Pillow's time; None if it does not like the file."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _checked(read: Callable[[], Any], data: bytes, name: str | Path) -> Any:
    """What `read` gives; whatever a decoder raises becomes BadImage."""
    try:
        return read()
    except Image.UnidentifiedImageError as error:
        raise BadImage(f"{shown(name)}: the format is unknown (begins with {data[:12]!r})"
                       ) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{shown(name)}: {error}") from error
    except Exception as error:  # decoders fed arbitrary bytes raise whatever their parsers meet
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"{shown(name)}: {reason}") from error


def _open(data: bytes) -> Image.Image:
    """The image with its header read, of a size that may be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # odd metadata: what matters here raises
        image = Image.open(io.BytesIO(data), formats=READ_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"the image has {image.width} x {image.height} pixels; "
                                           f"the limit is {MAX_PIXELS}")
    return image


def _save(file: IO[bytes], image: np.ndarray, file_format: str, quality: int) -> None:
    settings = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"quality": quality}}
    Image.fromarray(image).save(file, file_format, **settings.get(file_format, {}))


def _decode(data: bytes) -> np.ndarray:
    image = _open(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.load()
        # Read after load(), which turns TIFFs upright by itself and then forgets the tag.
        turn = _UPRIGHT.get(orientation_of(image))
        image = _to_rgb(image)
    return np.array(image if turn is None else image.transpose(turn))


def orientation_of(image: Image.Image) -> int:
    """How EXIF says an opened image lies, 1 (upright) to 8; also 1 where that is damaged."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:   # its parser raises whatever it meets, and the pixels may be good
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):          # 16 bits, kept in 16 or 32
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"integer values must be from 0 to 65535, got {low} to {high}")
        # What Pillow does with 16-bit color; exact for 8 bits shifted up and for 8 bits x 257.
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("values must be finite, got NaN or infinity")
        low, high = float(values.min()), float(values.max())
        white = 1.0 if high <= 2 else 255.0     # 2: resampling overshoots white a little
        if low < -white or high > 2 * white:
            raise ValueError("floating-point values must be from 0 to 1 or 0 to 255, got "
                             f"{low:g} to {high:g}")
        scaled = values.astype(np.float64) / white * 255
        image = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
