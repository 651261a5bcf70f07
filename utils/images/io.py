"""Images on disk; only this package knows OpenCV's BGR order. Arrays are uint8 RGB (H, W, 3)."""
from __future__ import annotations

import errno
import io
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.files import write_atomically
from utils.images import decode
from utils.images import pack as packs
from utils.images.decode import READ_FORMATS as READ_FORMATS  # these belong to this module, too
from utils.images.decode import BadImage, shown
from utils.images.decode import DamagedImage as DamagedImage
from utils.images.decode import TooManyPixels as TooManyPixels
from utils.images.decode import orientation_of as orientation_of
from utils.images.errors import NotWritten
from utils.images.listing import EXTENSIONS_OF as EXTENSIONS_OF
from utils.images.listing import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from utils.images.listing import find_images as find_images
from utils.images.listing import left_out as left_out
from utils.images.listing import list_images as list_images
from utils.images.listing import root_of as root_of
from utils.images.listing import warn_left_out as warn_left_out
from utils.system import READ_NOW

MAX_BYTES = 1 << 31         # of a file; 16-bit color of so many pixels takes half
WRITE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP",
                  ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM"}
# Pixels that libjpeg, libwebp and libpng take.
MAX_SIDE = {"JPEG": 65500, "WEBP": 16383, "PNG": 1_000_000}
MAX_FILE = 4 * 10 ** 9      # bytes; BMP and TIFF count them with 32 bits
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_image(path: str | Path, verify: bool = False) -> np.ndarray:
    """Decode an image of any kind that is read to uint8 RGB (H, W, 3), upright.

    The content decides, not the extension. Alpha is dropped, the EXIF orientation applied, an
    animation gives its first frame, profiles are ignored. Of deeper samples the high byte is kept.
    `docs/images.md` says it by format.

    Args:
        verify: compare the checksum of an image that comes from a pack.

    Raises:
        BadImage: unreadable, empty, truncated, too large, NaN, or no image.
    """
    found = content_of(path, verify)
    return found if isinstance(found, np.ndarray) else decode_image(found, path)


def content_of(path: str | Path, verify: bool = False) -> bytes | np.ndarray:
    """The bytes of an image's file, or the pixels of an image that lies in a pack.

    Raises:
        BadImage: no such file, empty, too large, not a regular file, or a pointer of Git LFS.
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
    return data


def decode_image(data: bytes, name: str | Path) -> np.ndarray:
    """The image in the bytes of a file, as `read_image` gives it; `name` is for messages.

    Raises:
        BadImage: as `read_image`.
    """
    return decode.checked(lambda: decode.decode_rgb(data), data, name)


def image_size(data: bytes, name: str | Path) -> tuple[int, int]:
    """Width and height by the header, nothing decoded; those of an image that EXIF turns are
    as they are stored.

    Raises:
        BadImage: no image of a known format.
        TooManyPixels: it would take more memory than `utils.images.memory` allows.
    """
    return decode.checked(lambda: decode.size_of(data), data, name)


def write_image(path: str | Path, image: np.ndarray, quality: int = 95) -> None:
    """Write a uint8 RGB (H, W, 3) or gray (H, W) array; the extension chooses the format.

    The file appears complete or not at all. Missing folders are created. `quality` (1..100) is
    used by JPEG, without chroma subsampling, and WebP.

    Raises:
        ValueError: unknown extension, or not such an array.
        NotWritten: see `write_file`; the format does not hold an image of this size.
    """
    path = Path(path)
    format_of(path.suffix.lower(), f"{path}: ")
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ValueError(f"{path}: the image must be a uint8 array (H, W, 3) or (H, W), got "
                         f"{image.dtype} {image.shape}")
    write_file(path, lambda: encode_image(image, path.suffix.lower(), quality))


def write_file(path: Path, encode: Callable[[], bytes]) -> None:
    """Write the bytes of an image's file, as `utils.files.write_atomically` does.

    Raises:
        NotWritten: `encode` raised it, or the folder does not take this file.
        OSError: the disk is full, so that no other file could be written either.
    """
    with written_to(path):
        body = encode()
        write_atomically(path, lambda file: file.write(body) and None)


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Turns what goes wrong with one file into NotWritten that names it; a full disk is no such."""
    try:
        yield
    except NotWritten as error:
        raise NotWritten(f"{shown(path)}: {error}") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise NotWritten(f"{shown(path)}: {error.strerror or error}") from error


def format_of(extension: str, where: str = "") -> str:
    """Pillow's name of the format that files of this extension have.

    Raises:
        ValueError: none that is written.
    """
    found = WRITE_FORMATS.get(extension)
    if found is None:
        raise ValueError(f"{where}the extension must be one of {', '.join(WRITE_FORMATS)}, got "
                         f"{extension or 'none'}")
    return found


def check_size(image: np.ndarray, file_format: str) -> None:
    """Raise NotWritten if a file of this format (see `format_of`) cannot hold the image."""
    height, width = image.shape[:2]
    most = MAX_SIDE.get(file_format, 1 << 31)
    if not 0 < min(height, width) <= max(height, width) <= most or image.nbytes > MAX_FILE:
        raise NotWritten(f"{file_format} cannot hold an image of {width}x{height} pixels"
                         + (f"; its limit is {most} a side" if max(height, width) > most else ""))


def encode_image(image: np.ndarray, extension: str, quality: int = 95, **more: Any) -> bytes:
    """The bytes that `write_image` would write to a file of this extension, such as `.png`.

    Args:
        image: uint8 (H, W), (H, W, 3), or (H, W, 4) with alpha where the format has it.
        more: of Pillow's `save`, such as `icc_profile`.

    Raises:
        ValueError: unknown extension.
        NotWritten: the format does not hold such an image.
    """
    file_format = format_of(extension)
    check_size(image, file_format)
    settings = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"quality": quality}}
    file = io.BytesIO()
    try:
        Image.fromarray(image).save(file, file_format, **settings.get(file_format, {}) | more)
    except (OSError, ValueError, struct.error) as error:
        raise NotWritten(f"{file_format} cannot hold the image: {error}") from error
    return file.getvalue()


def _pack_instead(path: str | Path) -> tuple[packs.Pack, str] | None:
    try:
        return packs.pack_around(path, look=True)
    except ValueError as error:
        raise BadImage(f"{shown(path)}: {error}") from error


def _bytes_of(path: str | Path) -> bytes:
    """Content of a regular file; others, such as pipes behind a link, might never end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | READ_NOW)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("this is not a regular file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"the file has {found.st_size} bytes; the limit is {MAX_BYTES}")
        return file.read()
