"""Images with what `read_image` leaves out: transparency and the low bytes of 16-bit samples."""
from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from utils.files import write_atomically
from utils.images.io import orientation_of, read_image, write_image

# What each format holds besides 8-bit RGB.
HOLDS_ALPHA = {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
HOLDS_16_BITS = frozenset((".png", ".tif", ".tiff"))
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_FORMATS = ("PNG", "WEBP", "TIFF", "GIF", "JPEG2000")   # that have either
_TIFF_BITS = 258


@dataclass
class Layers:
    """An image as its file has it.

    Attributes:
        pixels: RGB (H, W, 3), uint8, or uint16 where the file has 16 bits a sample.
        alpha: (H, W) of the same type, or None for an image without transparency.
    """
    pixels: np.ndarray
    alpha: np.ndarray | None = None


def read_layers(path: str | Path) -> Layers:
    """Decode an image as `utils.images.io.read_image` does, and keep its alpha and its 16 bits.

    Only PNG and TIFF have 16 bits; kinds that OpenCV cannot decode so come with 8.

    Raises:
        BadImage: as `read_image`.
    """
    plain = read_image(path)
    try:
        return _with_more(plain, Path(path).read_bytes())
    except Exception:   # decoders raise whatever their parsers meet; what there is, is good
        return Layers(plain)


def _with_more(plain: np.ndarray, data: bytes) -> Layers:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # odd metadata: read_image has taken the file
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        turn = orientation_of(image)
        layers = _decode_deep(data, plain, turn) if _is_deep(image, data) else None
        if layers is not None:
            return layers
        if not (image.mode in _ALPHA_MODES or "transparency" in image.info):
            return Layers(plain)
        alpha = np.array(image.convert("RGBA").getchannel("A"))
        # Loading turned a TIFF upright and removed the tag.
        alpha = _turned(alpha, orientation_of(image))
    return Layers(plain, alpha)


def write_layers(path: str | Path, layers: Layers, quality: int = 95) -> None:
    """Write an image with all that the format of the extension holds; the rest is left out.

    Raises:
        ValueError: see `utils.images.io.write_image`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    pixels = layers.pixels
    alpha = layers.alpha if suffix in HOLDS_ALPHA else None
    if pixels.dtype == np.uint16 and suffix in HOLDS_16_BITS:
        _write_deep(path, pixels, alpha)
        return
    pixels, alpha = (x if x is None or x.dtype == np.uint8 else (x >> 8).astype(np.uint8)
                     for x in (pixels, alpha))
    if alpha is None:
        write_image(path, pixels, quality)
        return
    settings = {"format": HOLDS_ALPHA[suffix]} | ({"quality": quality} if suffix == ".webp" else {})
    write_atomically(path, lambda file: Image.fromarray(np.dstack([pixels, alpha])).save(
        file, **settings))


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether samples have 16 bits, which Pillow's mode does not tell for color."""
    if image.format == "PNG":
        return data[24] == 16       # bit depth in the header chunk
    if image.format == "TIFF":
        return 16 in tuple(image.tag_v2.get(_TIFF_BITS, ()))
    return False


def _decode_deep(data: bytes, plain: np.ndarray, turn: int) -> Layers | None:
    """The 16-bit image, or None if OpenCV does not see what `read_image` saw."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    for number in dict.fromkeys((turn, 1)):     # some formats come upright by themselves
        turned = _turned(pixels, number)
        colors = np.ascontiguousarray(turned[..., 2::-1])
        if np.array_equal((colors >> 8).astype(np.uint8), plain):
            alpha = np.ascontiguousarray(turned[..., 3]) if turned.shape[2] == 4 else None
            return Layers(colors, alpha)
    return None


def _turned(pixels: np.ndarray, number: int) -> np.ndarray:
    """Upright, by the number of EXIF's orientation tag."""
    if number in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if number in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if number in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _write_deep(path: Path, pixels: np.ndarray, alpha: np.ndarray | None) -> None:
    pixels = pixels[..., ::-1] if alpha is None else np.dstack([pixels[..., ::-1], alpha])
    _, encoded = cv2.imencode(path.suffix.lower(), pixels)
    write_atomically(path, lambda file: file.write(encoded.tobytes()) and None)
