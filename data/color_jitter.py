"""Brightness, contrast, saturation and hue of float images (H, W, 3), RGB in [0, 1].

Source: the tensor functions of torchvision.transforms, which GFP-GAN was trained with.
"""
from __future__ import annotations

import numpy as np

# The published ranges, both ends included.
RANGES = {"brightness": (0.5, 1.5), "contrast": (0.5, 1.5), "saturation": (0.0, 1.5),
          "hue": (-0.1, 0.1)}
LUMA = np.array((0.2989, 0.587, 0.114), np.float32)


def _blend(image: np.ndarray, other: np.ndarray | float, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * other, 0, 1).astype(image.dtype)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return _blend(image, 0.0, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Distance from the image's mean luma."""
    return _blend(image, (image @ LUMA).mean(), factor)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Distance from each pixel's luma."""
    return _blend(image, (image @ LUMA)[..., None], factor)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by a fraction of the full circle; gray pixels stay."""
    red, green, blue = np.moveaxis(image, -1, 0)
    high, low = image.max(-1), image.min(-1)
    spread = np.where(high == low, 1, high - low)
    # Sectors of 60 degrees, by which channel is the largest; red before green before blue.
    sector = np.select([high == red, high == green],
                       [(green - blue) / spread, 2 + (blue - red) / spread],
                       4 + (red - green) / spread)
    sector = (sector + 6 * turn) % 6
    chroma = (high - low)[..., None]
    distance = (np.array((5, 3, 1)) + sector[..., None]) % 6
    fraction = np.clip(np.minimum(distance, 4 - distance), 0, 1)
    return (high[..., None] - chroma * fraction).astype(image.dtype)


FUNCTIONS = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def color_jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All four, in random order, by random factors of RANGES."""
    names = list(FUNCTIONS)
    for index in rng.permutation(len(names)):
        image = FUNCTIONS[names[index]](image, rng.uniform(*RANGES[names[index]]))
    return image
