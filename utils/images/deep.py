"""Images with what `read_image` leaves out: transparency, 16-bit samples, profile and EXIF."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from utils.images import decode, tiff
from utils.images.io import (
    WRITE_FORMATS,
    check_size,
    content_of,
    encode_image,
    format_of,
    write_file,
)
from utils.images.metadata import PROFILE_FORMATS, Metadata, into_png

# What each format holds besides 8-bit RGB.
HOLDS_ALPHA = frozenset((".png", ".webp", ".tif", ".tiff"))
HOLDS_16_BITS = frozenset((".png", ".tif", ".tiff"))


@dataclass
class Layers:
    """An image as its file has it.

    Attributes:
        pixels: RGB (H, W, 3), uint8, or uint16 where the file has more than 8 bits a sample.
        alpha: (H, W) of the same type, or None for an image without transparency.
        metadata: profile, EXIF and resolution; pixels are in the profile's color space.
        notes: what was assumed in reading it, each a sentence.
    """
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)

    def for_file(self, extension: str, strip_metadata: bool = False) -> Layers:
        """What a file of this extension can say, so that its colors are right.

        Where the profile is not kept, colors of another space become sRGB, with 8 bits.
        """
        holds_profile = WRITE_FORMATS.get(extension) in PROFILE_FORMATS
        if holds_profile and not strip_metadata:
            return self
        pixels = self.pixels if self.metadata.space is None else self.srgb()
        kept = Metadata() if strip_metadata else replace(self.metadata, profile=None)
        return replace(self, pixels=pixels, metadata=kept)

    def srgb(self) -> np.ndarray:
        """The pixels as networks see them, uint8 sRGB (H, W, 3)."""
        pixels, space = decode.eight_bits(self.pixels), self.metadata.space
        return pixels if space is None else space.to_srgb(pixels)


def read_layers(path: str | Path) -> Layers:
    """Decode an image as `utils.images.io.read_image` does, and keep what that leaves out.

    Raises:
        BadImage: as `read_image`.
    """
    found = content_of(path)
    return Layers(found) if isinstance(found, np.ndarray) else decode_layers(found, path)


def decode_layers(data: bytes, name: str | Path) -> Layers:
    """The image in the bytes of a file, as `read_layers` gives it; `name` is for messages.

    Raises:
        BadImage: as `read_layers`.
    """
    found = decode.checked(lambda: decode.decode(data), data, name)
    return Layers(found.pixels, found.alpha, found.metadata, found.notes)


def write_layers(path: str | Path, layers: Layers, quality: int = 95) -> None:
    """Write an image with all that the format of the extension holds; the rest is left out.

    Raises:
        ValueError, NotWritten: see `utils.images.io.write_image`.
    """
    path = Path(path)
    write_file(path, lambda: encode_layers(layers, path.suffix.lower(), quality))


def encode_layers(layers: Layers, extension: str, quality: int = 95) -> bytes:
    """The bytes that `write_layers` would write to a file of this extension, such as `.png`.

    Raises:
        ValueError: unknown extension.
        NotWritten: the format does not hold such an image.
    """
    file_format = format_of(extension)
    pixels, metadata = layers.pixels, layers.metadata
    check_size(pixels, file_format)
    alpha = layers.alpha if extension in HOLDS_ALPHA else None
    size = (pixels.shape[1], pixels.shape[0])
    if pixels.dtype == np.uint16 and extension in HOLDS_16_BITS:
        if extension != ".png":
            return tiff.written(pixels, alpha, metadata.settings("TIFF", size))
        planes = pixels[..., ::-1] if alpha is None else np.dstack([pixels[..., ::-1], alpha])
        return into_png(cv2.imencode(".png", planes)[1].tobytes(), metadata, size)
    pixels = decode.eight_bits(pixels)
    whole = pixels if alpha is None else np.dstack([pixels, decode.eight_bits(alpha)])
    return encode_image(whole, extension, quality, **metadata.settings(file_format, size))
