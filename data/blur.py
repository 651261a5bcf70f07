"""Blurs of photographs: Gaussian, box, median and motion, on uint8 RGB (H, W, 3); and kernels.

Source: the imgaug 0.4 augmenters that SPARNetHD and PSFR-GAN were trained with; the kernels are
those of BasicSR, which GPEN, GFP-GAN and Real-ESRGAN (arXiv 2107.10833) were trained with.
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
    """A line through the center that fades along its length.

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
    # The original rotates the kernel as an 8-bit image.
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -angle, 1)
    turned = cv2.warpAffine((kernel * 255).astype(np.uint8), turn, (side, side),
                            flags=cv2.INTER_LINEAR).astype(np.float32)
    return turned / turned.sum()


def motion_blur(image: np.ndarray, side: int, angle: float, direction: float) -> np.ndarray:
    """Blur along a line; see motion_kernel."""
    return cv2.filter2D(image, -1, motion_kernel(side, angle, direction))


def odd(side: int) -> int:
    return side + 1 - side % 2


# ---- kernels ------------------------------------------------------------------------------------

def kernel_form(side: int, sigma: tuple[float, float], theta: float = 0.0) -> np.ndarray:
    """The quadratic form q = g' S^-1 g that bell-shaped kernels are functions of.

    Args:
        side: of the kernel, odd; g runs over the whole numbers around its center.
        sigma: standard deviations along the two axes of the ellipse, in pixels.
        theta: turns the ellipse, radians.

    Returns:
        float64 (side, side).
    """
    steps = np.arange(side) - side // 2
    x, y = np.meshgrid(steps, steps)
    along, across = np.cos(theta) * x + np.sin(theta) * y, np.cos(theta) * y - np.sin(theta) * x
    return (along / sigma[0]) ** 2 + (across / sigma[1]) ** 2


def gaussian_kernel(side: int, sigma: tuple[float, float], theta: float = 0.0,
                    beta: float = 1.0) -> np.ndarray:
    """exp(-q^beta / 2) with sum 1, float64; see kernel_form. A beta of 1 is Gaussian."""
    kernel = np.exp(-0.5 * kernel_form(side, sigma, theta) ** beta)
    return kernel / kernel.sum()


def plateau_kernel(side: int, sigma: tuple[float, float], theta: float, beta: float) -> np.ndarray:
    """1 / (q^beta + 1) with sum 1, float64; flat in the middle. See kernel_form."""
    kernel = 1 / (kernel_form(side, sigma, theta) ** beta + 1)
    return kernel / kernel.sum()


def sinc_kernel(side: int, cutoff: float, padded: int = 0) -> np.ndarray:
    """Ideal low-pass filter of the plane, cut off: it rings.

    Args:
        side: odd.
        cutoff: radians per pixel, up to pi.
        padded: side of the result, zeros around; 0 for none.

    Returns:
        float64, sum 1.
    """
    steps = np.arange(side) - side // 2
    radius = np.hypot(*np.meshgrid(steps, steps))
    radius[side // 2, side // 2] = 1        # stands in for 0, whose value follows
    kernel = cutoff * bessel_j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[side // 2, side // 2] = cutoff ** 2 / (4 * np.pi)
    return np.pad(kernel / kernel.sum(), max(0, padded - side) // 2)


def bessel_j1(x: np.ndarray) -> np.ndarray:
    """Bessel function of the first kind and order 1, for |x| up to about 500.

    Its integral over a period by the midpoint rule, which is exact to rounding: the error falls
    faster than any power of the number of points once there are more than |x|.
    """
    points = 1024
    angle = np.pi * (np.arange(points) + 0.5) / points
    return np.mean(np.cos(angle - np.asarray(x)[..., None] * np.sin(angle)), axis=-1)
