"""Samples of any depth as bytes or as 16 bits, over their whole range."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from utils.images.color import cmyk_to_srgb
from utils.images.metadata import Metadata

_GUESSED = (8, 10, 12)      # depths that samples in a container of 16 bits may really have


@dataclass
class Decoded:
    """An image, upright.

    Attributes:
        pixels: RGB (H, W, 3), uint8; or uint16 over its whole range.
        alpha: (H, W) of the same type, or None.
        metadata: what else the file says; empty unless everything was asked for.
        notes: what was assumed, each a sentence.
    """
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)


def eight_bits(image: np.ndarray) -> np.ndarray:
    """A uint8 image as it is, of a uint16 one the high bytes."""
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def gray(values: np.ndarray, is_declared: bool) -> Decoded:
    """Gray integers or floats (H, W)."""
    if values.dtype.kind == "f":
        found = Decoded(from_floats(values[..., None]))
    else:
        found = in_full(values[..., None], None, 16, is_declared)
    found.pixels = np.repeat(found.pixels, 3, axis=2)
    return found


def in_full(colors: np.ndarray, alpha: np.ndarray | None, bits: int,
            is_declared: bool) -> Decoded:
    """Integers (H, W, C) over the whole range of uint8 or uint16.

    Args:
        bits: of each sample, as declared.
        is_declared: that is what the values really have, and not only what holds them.

    Raises:
        ValueError: a value is negative or exceeds 65535.
    """
    every = [colors] if alpha is None else [colors, alpha]
    low, high = min(int(x.min()) for x in every), max(int(x.max()) for x in every)
    if low < 0 or high > 65535:
        raise ValueError(f"integer values must be from 0 to 65535, got {low} to {high}")
    notes, bits = [], min(bits, 16)
    if not is_declared and high:
        # Not by alpha, which some programs write with all 16 bits.
        top = int(colors.max())
        guess = next((each for each in _GUESSED if top < 1 << each <= 1 << bits), bits)
        if guess < bits:
            notes = [f"no sample exceeds {top}, so that {guess} bits are taken as the depth "
                     f"although the file has {bits}"]
        if alpha is not None and guess < bits and high >= 1 << guess:
            alpha = (alpha >> (bits - guess)).astype(alpha.dtype)
        bits = guess
    colors, alpha = (None if x is None else _scaled(x, bits) for x in (colors, alpha))
    return Decoded(colors, alpha, notes=notes)


def from_floats(values: np.ndarray) -> np.ndarray:
    """Floats from 0 to 1, or to 255 if they exceed 2, as uint8.

    Raises:
        ValueError: NaN, infinity, or values of another range.
    """
    if not np.isfinite(values).all():
        raise ValueError("values must be finite, got NaN or infinity")
    low, high = float(values.min()), float(values.max())
    white = 1.0 if high <= 2 else 255.0     # 2: resampling overshoots white a little
    if low < -white or high > 2 * white:
        raise ValueError("floating-point values must be from 0 to 1 or 0 to 255, got "
                         f"{low:g} to {high:g}")
    scaled = values.astype(np.float64) / white * 255
    return scaled.round().clip(0, 255).astype(np.uint8)


def divided(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colors that were multiplied by alpha, as they were before."""
    top = np.iinfo(pixels.dtype).max
    full = pixels.astype(np.float64) * top / np.maximum(alpha, 1)[..., None]
    return np.rint(full).clip(0, top).astype(pixels.dtype)


def from_cmyk(inks: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Inks (H, W, 4) as RGB: 8 bits by a profile, or by the complements with all bits."""
    if profile:     # transforms are for 8 bits
        return np.array(cmyk_to_srgb(Image.fromarray(eight_bits(inks), "CMYK"), profile))
    top = np.iinfo(inks.dtype).max
    white = top - inks.astype(np.uint32)
    return ((white[..., :3] * white[..., 3:] + top // 2) // top).astype(inks.dtype)


def _scaled(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return values.astype(np.uint8)
    if bits == 16:
        return values.astype(np.uint16)
    top = (1 << bits) - 1
    if bits < 8:
        return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    full = (values.astype(np.uint32) * 65535 + top // 2) // top
    return np.minimum(full, 65535).astype(np.uint16)
