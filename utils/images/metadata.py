"""What a file says about its image and what the image's restored version says, too."""
from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from utils.images.color import ColorSpace, color_space, is_rgb

ORIENTATION = 0x0112
_WIDTH, _HEIGHT = 0xA002, 0xA003        # of the image, in EXIF's own directory
# Tags of TIFF about how pixels are stored; in EXIF they describe another file or the thumbnail.
_STORAGE = frozenset((254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284,
                      292, 293, 317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 347,
                      512, 513, 514, 529, 530, 531, 532, 34377, 34675, 37724))
_DENSITY = frozenset((282, 283, 296))   # written from `dpi`
PROFILE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")     # that hold a profile, and EXIF
MAX_EXIF = 65533 - 6        # bytes in a JPEG's segment


@dataclass(frozen=True)
class Metadata:
    """What is kept of a file besides its pixels.

    Attributes:
        profile: ICC profile of RGB colors.
        exif: a TIFF structure, upright and without a thumbnail.
        dpi: pixels per inch, horizontal and vertical.
    """
    profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None

    @property
    def space(self) -> ColorSpace | None:
        """How pixels become sRGB, None if they are."""
        return color_space(self.profile)

    def settings(self, file_format: str, size: tuple[int, int]) -> dict[str, Any]:
        """Arguments of Pillow's `save`, for an image of this (width, height)."""
        found: dict[str, Any] = {}
        if self.profile and file_format in PROFILE_FORMATS:
            found["icc_profile"] = self.profile
        if self.dpi and file_format in ("JPEG", "PNG", "TIFF", "BMP"):
            found["dpi"] = self.dpi
        if self.exif and file_format in PROFILE_FORMATS:
            body = _exif_of_size(self.exif, size)
            if file_format != "JPEG" or len(body) <= MAX_EXIF:
                found["exif"] = b"Exif\0\0" + body if file_format != "TIFF" else _loaded(body)
        return found


def metadata_of(image: Image.Image) -> Metadata:
    """What an opened image's file says; what is damaged is left out."""
    profile = image.info.get("icc_profile")
    if not (isinstance(profile, bytes) and is_rgb(profile)):
        profile = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exif = _kept(image.getexif(), image.format == "TIFF")
        except Exception:   # its parser raises whatever it meets, and the pixels may be good
            exif = None
    return Metadata(profile, exif, _dpi(image.info.get("dpi")))


def _dpi(given: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in given)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 1 <= across < 65536 and 1 <= down < 65536 else None


def _kept(exif: Image.Exif, is_tiff: bool) -> bytes | None:
    left_out = _STORAGE | (_DENSITY if is_tiff else frozenset())
    kept = Image.Exif()
    for tag, value in exif.items():
        if tag not in left_out:
            kept[tag] = value
    for pointer in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if inside := dict(exif.get_ifd(pointer)):
            # Assigned by the pointer's tag, a directory is written as one.
            kept._ifds[pointer] = inside
            kept[pointer] = inside
    if not set(kept) - {ORIENTATION}:
        return None
    if ORIENTATION in kept:
        kept[ORIENTATION] = 1
    return kept.tobytes().removeprefix(b"Exif\0\0")


def _loaded(body: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + body)
    return exif


def _exif_of_size(body: bytes, size: tuple[int, int]) -> bytes:
    """The block with the size of the image it describes now, where it states one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = _loaded(body)
        inside = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in zip((_WIDTH, _HEIGHT), size, strict=True):
            if tag in inside:
                inside[tag] = side
        return exif.tobytes().removeprefix(b"Exif\0\0")


def into_png(data: bytes, metadata: Metadata, size: tuple[int, int]) -> bytes:
    """A PNG with chunks for the metadata, behind its header."""
    chunks = []
    if metadata.profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.profile)))
    if metadata.dpi:
        per_meter = (round(each / 0.0254) for each in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", *per_meter, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", _exif_of_size(metadata.exif, size)))
    more = b"".join(struct.pack(">I", len(body)) + kind + body
                    + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return data[:33] + more + data[33:]     # signature and header take 33 bytes
