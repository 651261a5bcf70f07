"""Blurs of photographs: Gaussian, box, median and motion, on uint8 RGB (H, W, 3).

Source: the imgaug 0.4 augmenters that SPARNetHD and PSFR-GAN were trained with.
"""
from __future__ import annotations

import cv2
import numpy as np


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, cut off where the published kernels end: milder than sigma says from 5 on."""
    reach = 3.3 if sigma < 3 else 2.9 if sigma < 5 else 2.6
    side = odd(int(max(reach * sigma, 5)))
    return cv2.GaussianBlur(image, (side, side), sigma, sigmaY=sigma,
                            borderType=cv2.BORDER_REFLECT_101)


def box_blur(image: np.ndarray, side: int) -> np.ndarray:
    """Mean over side x side pixels; an even side is allowed."""
    return cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT_101)


def median_blur(image: np.ndarray, side: int) -> np.ndarray:
    """Median per channel over a square; an even side becomes the next odd one."""
    return cv2.medianBlur(image, odd(side))


def motion_kernel(side: int, angle: float, direction: float) -> np.ndarray:
    """A line through the centre that fades along its length.

    Args:
        side: pixels; an even one becomes the next odd one.
        angle: degrees, clockwise from upright.
        direction: -1 (the weight is at one end) to 1 (at the other); 0 is even.

    Returns:
        float32 (side, side), sum 1.
    """
    side = odd(side)
    start = (np.clip(direction, -1, 1) + 1) / 2
    kernel = np.zeros((side, side), np.float32)
    kernel[:, side // 2] = np.linspace(start, 1 - start, side)
    # The original rotates the kernel as an 8-bit picture.
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -angle, 1)
    turned = cv2.warpAffine((kernel * 255).astype(np.uint8), turn, (side, side),
                            flags=cv2.INTER_LINEAR).astype(np.float32)
    return turned / turned.sum()


def motion_blur(image: np.ndarray, side: int, angle: float, direction: float) -> np.ndarray:
    """Blur along a line; see motion_kernel."""
    return cv2.filter2D(image, -1, motion_kernel(side, angle, direction))


def odd(side: int) -> int:
    return side + 1 - side % 2
