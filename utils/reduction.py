"""Pillow's bilinear reductions and centre crops, as PFSRNet's data need them."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

PUBLISHED_SIDES = (128, 64, 32, 16)
CELEBA_CROP = 178


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a uint8 (H, W, 3) array with Pillow's bilinear filter, which antialiases."""
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def reduced(image: np.ndarray, sides: Sequence[int] = PUBLISHED_SIDES) -> np.ndarray:
    """Bring a picture to the last of the sides, through every one smaller than itself.

    Args:
        image: uint8 (H, W, 3) of any size; the aspect ratio is not kept.

    Returns:
        uint8 (sides[-1], sides[-1], 3).
    """
    for side in sides:
        if max(image.shape[:2]) > side:
            image = bilinear(image, side, side)
    last = sides[-1]
    return image if image.shape[:2] == (last, last) else bilinear(image, last, last)


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The square of this side from the middle; odd remainders as torchvision rounds them."""
    height, width = image.shape[:2]
    # Python rounds halves to even, as the published crop does.
    top, left = round((height - side) / 2), round((width - side) / 2)
    return image[top:top + side, left:left + side]
