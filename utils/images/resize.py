"""Image arrays resized by the filters that published numbers come from; cropped and mirrored."""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

PUBLISHED_SIDES = (64, 32, 16)
CELEBA_CROP = 178


def bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a uint8 (H, W, 3) or (H, W) array with Pillow's bicubic filter.

    Pillow's antialiases when it shrinks and has a = -0.5; OpenCV's and torch's do neither, and
    the published numbers come from Pillow.
    """
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a uint8 (H, W, 3) array with Pillow's bilinear filter, which antialiases."""
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def opencv_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a uint8 (H, W, 3) array with OpenCV's bilinear filter, which does not antialias."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def downscale_through(image: np.ndarray, sides: Sequence[int] = PUBLISHED_SIDES) -> np.ndarray:
    """Bring an image to the last of the sides, through each of them.

    Args:
        image: uint8 (H, W, 3) of any size; the aspect ratio is not kept. One that has the last
            side already stays as it is.

    Returns:
        uint8 (sides[-1], sides[-1], 3).
    """
    if image.shape[:2] != (sides[-1], sides[-1]):
        for side in sides:
            image = bilinear(image, side, side)
    return image


def center_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The square of this side from the middle; odd remainders as torchvision rounds them."""
    height, width = image.shape[:2]
    # Python rounds halves to even, as the published crop does.
    top, left = round((height - side) / 2), round((width - side) / 2)
    return image[top:top + side, left:left + side]


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrored left-right, as a contiguous copy: Pillow takes 5 times as long to read a view."""
    return cv2.flip(image, 1)
