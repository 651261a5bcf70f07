"""The one decoder: bytes of a file to pixels. `docs/images.md` has its rules as a table."""
from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from utils.images import jp2, jpeg, memory, png, tiff, tiff_tags
from utils.images.color import cmyk_to_srgb, gray_to_srgb, is_rgb, lab_to_srgb
from utils.images.depth import (
    Decoded,
    divided,
    eight_bits,
    from_cmyk,
    from_floats,
    gray,
    in_full,
)
from utils.images.errors import ImageError
from utils.images.metadata import ORIENTATION, Metadata, metadata_of

# Named because the content decides, not the extension: Pillow's EPS reader would start Ghostscript.
READ_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF",
                "ICO", "PCX", "SGI", "QOI", "PSD")
_TURNS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


class BadImage(ImageError):
    """A file that cannot be used as an image; the message is `<file>: <reason>`."""


class TooManyPixels(BadImage):
    """An image that is not decoded because of its size."""


class DamagedImage(BadImage):
    """An image whose data are damaged, though a decoder makes something of them."""


def shown(path: str | Path) -> str:
    """A path on one line that can be printed: line breaks and stray bytes are escaped."""
    text = str(path)
    return text if text.isprintable() else "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def checked(read: Callable[[], Any], data: bytes, name: str | Path) -> Any:
    """What `read` gives; whatever a decoder raises becomes BadImage."""
    try:
        return read()
    except Image.UnidentifiedImageError as error:
        raise BadImage(f"{shown(name)}: the format is unknown (begins with {data[:12]!r})"
                       ) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{shown(name)}: {memory.refusal_of(error)}") from error
    except jpeg.Damaged as error:
        raise DamagedImage(f"{shown(name)}: {error}") from error
    except Exception as error:  # decoders fed arbitrary bytes raise whatever their parsers meet
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"{shown(name)}: {reason}") from error


def decode_rgb(data: bytes) -> np.ndarray:
    """uint8 RGB (H, W, 3), upright, numbers as the file has them: no profile is applied."""
    turn = jpeg.plain_jpeg(data)
    if turn is not None and (pixels := jpeg.decode_plain(data)) is not None:
        return turned(pixels, turn) if turn in range(2, 9) else pixels
    return eight_bits(decode(data, False).pixels)


def decode(data: bytes, everything: bool = True) -> Decoded:
    """The image with its alpha, its 16 bits and its metadata.

    Args:
        everything: False gives pixels alone, and leaves the numbers of CMYK and gray images as they
            are; True converts those to sRGB by their profile, since the result is an RGB file.

    Raises:
        ValueError, and whatever decoders raise; see `checked`.
    """
    if not data.startswith(png.SIGNATURE):
        return _decode(data, everything)
    try:
        return _decode(data, everything)
    except ValueError:      # Pillow does not take texts and profiles over 1 MiB
        return _decode(png.without_text(data), everything)


def _decode(data: bytes, everything: bool) -> Decoded:
    if tiff_tags.is_tiff(data):
        data, directory = tiff_tags.classic(data, tiff_tags.read_directory(data))
        tiff.check(directory)
        data = tiff.without_planes_of_one(data, directory)
        if tiff.is_deep(directory) or not _pillow_opens(data):
            return _deep_tiff(data, directory, everything)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # odd metadata: what matters here raises
        image = opened(data)
        # Without everything, `decode_rgb` has tried that.
        if everything and (plain := _plain_jpeg_pixels(data)) is not None:
            found = Decoded(plain)
        elif (header := _jp2_header(data)) and not header.is_plain:
            pixels, alpha = jp2.decode_deep(data, header)
            found = Decoded(pixels, alpha)
            if pixels.dtype == np.uint16:
                found = in_full(pixels, alpha, header.bits, True)
        elif image.format == "PNG" and data[24] == 16:
            found = _deep_png(data)
        else:
            image.load()
            if image.format in ("JPEG", "MPO"):
                jpeg.check_damage(data)
            found = _shallow(image, everything)
        # Read after load(), which turns TIFFs upright by itself and then forgets the tag.
        turn = orientation_of(image)
        if everything:
            found.metadata = metadata_of(image)
            if image.format == "PNG" and not found.metadata.profile:
                found.metadata = replace(found.metadata, profile=png.profile_of(data))
            if image.format == "JPEG2000" and (profile := jp2.read_header(data).profile):
                found.metadata = replace(found.metadata,
                                         profile=profile if is_rgb(profile) else None)
            _apply_gray_profile(found, image)
    return _upright(found, turn)


def opened(data: bytes) -> Image.Image:
    """The image with its header read, of a size that may be decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=READ_FORMATS)
    except ValueError:
        image = Image.open(io.BytesIO(png.without_text(data)), formats=READ_FORMATS)
    memory.check(image.width, image.height, _bytes_each(image, data))
    return image


def _bytes_each(image: Image.Image, data: bytes) -> int:
    """Bytes that each pixel takes while the image is decoded."""
    if image.format == "JPEG2000" or (image.format == "PNG" and data[24:25] == b"\x10"):
        return memory.DEEP
    return memory.PROGRESSIVE if image.info.get("progressive") else memory.SHALLOW


def _pillow_opens(tiff_file: bytes) -> bool:
    """Whether Pillow knows how the samples of a TIFF lie."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened(tiff_file)
        except Image.UnidentifiedImageError:
            return False
    return True


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height as they are stored, by the header.

    Raises:
        ValueError, and whatever decoders raise; see `checked`.
    """
    if tiff_tags.is_tiff(data):
        data, directory = tiff_tags.classic(data, tiff_tags.read_directory(data))
        tiff.check(directory)
        if tiff.is_deep(directory) or not _pillow_opens(data):
            return _tiff_size(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return opened(data).size


def orientation_of(image: Image.Image) -> int:
    """How EXIF says an opened image lies, 1 (upright) to 8; also 1 where that is damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:   # its parser raises whatever it meets, and the pixels may be good
        return 1


def turned(pixels: np.ndarray, number: int) -> np.ndarray:
    """Upright, by the number of EXIF's orientation tag; (H, W) or (H, W, C)."""
    if number in _TURNS:
        return cv2.rotate(pixels, _TURNS[number])
    if number in (5, 7):
        pixels = cv2.transpose(pixels)
    axis = {2: 1, 4: 0, 7: -1}.get(number)
    return pixels if axis is None else cv2.flip(pixels, axis)


def is_deep(data: bytes) -> bool:
    """Whether samples have more than 8 bits, by the header; that of a damaged file is not."""
    try:
        if tiff_tags.is_tiff(data):
            return tiff.is_deep(tiff_tags.read_directory(data))
        if jp2.is_jpeg2000(data):
            return jp2.read_header(data).bits > 8
    except ValueError:
        return False
    return data.startswith(png.SIGNATURE) and data[24:25] == b"\x10"


def _jp2_header(data: bytes) -> jp2.Header | None:
    return jp2.read_header(data) if jp2.is_jpeg2000(data) else None


def _plain_jpeg_pixels(data: bytes) -> np.ndarray | None:
    return None if jpeg.plain_jpeg(data) is None else jpeg.decode_plain(data)


def _upright(found: Decoded, turn: int) -> Decoded:
    if turn in range(2, 9):
        found.pixels = turned(found.pixels, turn)
        found.alpha = None if found.alpha is None else turned(found.alpha, turn)
    return found


# ---- up to 8 bits, by Pillow ---------------------------------------------------------------------

def _shallow(image: Image.Image, everything: bool) -> Decoded:
    if image.mode.startswith("I") or image.mode == "F":
        return gray(np.asarray(image), image.format == "PPM" or image.format == "JPEG2000")
    alpha = None
    if everything and (image.mode in _ALPHA_MODES or "transparency" in image.info):
        alpha = np.array(image.convert("RGBA").getchannel("A"))
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        return Decoded(np.array(lab_to_srgb(image)))
    if image.mode == "CMYK" and everything:
        return Decoded(np.array(cmyk_to_srgb(image, profile)))
    return Decoded(np.array(image.convert("RGB")), alpha)


def _apply_gray_profile(found: Decoded, image: Image.Image) -> None:
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B"):
        found.pixels = gray_to_srgb(found.pixels, profile)


def _deep_png(data: bytes) -> Decoded:
    pixels, alpha = png.decode_deep(data)
    return in_full(pixels, alpha, 16, False)


def _deep_tiff(data: bytes, directory: tiff_tags.Directory, everything: bool) -> Decoded:
    _tiff_size(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = tiff.read_samples(data, directory)
        colors, alpha = samples.colors, samples.alpha
        if colors.dtype.kind == "f":
            found = Decoded(from_floats(colors))
        else:
            declared = samples.declared
            bits = declared.bit_length() if declared > 254 else samples.bits
            found = in_full(colors, alpha, bits, samples.bits not in (16, 32) or declared > 254)
            if samples.inverted:
                found.pixels = np.iinfo(found.pixels.dtype).max - found.pixels
        if samples.premultiplied and found.alpha is not None:
            found.pixels = divided(found.pixels, found.alpha)
        if everything:
            found.metadata = _tiff_metadata(data, directory)
        profile = directory.entries.get(34675, (7, 0, b""))[2] if everything else None
        if found.pixels.shape[2] == 4:
            found.pixels = from_cmyk(found.pixels, profile)
        elif found.pixels.shape[2] == 1:
            found.pixels = np.repeat(gray_to_srgb(found.pixels, profile), 3, axis=2)
    return _upright(found, directory.value(tiff_tags.ORIENTATION, 1))


def _tiff_size(directory: tiff_tags.Directory) -> tuple[int, int]:
    width, height = directory.value(tiff_tags.WIDTH), directory.value(tiff_tags.HEIGHT)
    # The samples as they are stored, those of one plane or strip again, and the result.
    stored = directory.value(tiff_tags.SAMPLES, 1) * max(
        1, directory.value(tiff_tags.BITS, 1) // 8)
    memory.check(width, height, 2 * stored + memory.SHALLOW)
    return width, height


def _tiff_metadata(data: bytes, directory: tiff_tags.Directory) -> Metadata:
    """As Pillow reads it, from a directory whose samples it knows."""
    changes = {tiff_tags.BITS: directory.shorts(8), tiff_tags.SAMPLES: directory.shorts(1),
               tiff_tags.PHOTOMETRIC: directory.shorts(1), tiff_tags.PLANAR: directory.shorts(1),
               tiff_tags.COMPRESSION: directory.shorts(1), tiff_tags.EXTRA_SAMPLES: None,
               tiff_tags.SAMPLE_FORMAT: None, tiff_tags.INK_SET: None}
    try:
        return metadata_of(Image.open(io.BytesIO(tiff_tags.with_tags(data, directory, changes)),
                                      formats=["TIFF"]))
    except (OSError, SyntaxError, ValueError, KeyError):
        return Metadata()
