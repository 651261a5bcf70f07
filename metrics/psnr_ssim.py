"""PSNR and SSIM of 8-bit images under two named protocols.

published: the Y channel truncated to bytes, as chaofengc/Face-SPARNet's psnr_ssim.py; the numbers
    of the SPARNet tables.
standard: all three RGB channels in floating point, images rounded to bytes.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

PEAK = 255.0


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 Y, 16..235, of a uint8 RGB (H, W, 3) image as float64 (H, W)."""
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / PEAK


def truncated_luma(image: np.ndarray) -> np.ndarray:
    """Y truncated to whole numbers, where MATLAB would round."""
    return luma(image).astype(np.uint8).astype(np.float64)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of arrays in 0..255; infinite for equal ones."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(PEAK ** 2 / error))


def pooled_psnr(errors: Iterable[tuple[float, int]], peak: float = PEAK) -> float:
    """dB of one mean squared error over all images; not above the mean of their PSNRs.

    Args:
        errors: of each image or batch its mean squared error and how many numbers that is over.
        peak: difference of white and black.

    Source: torchmetrics' PeakSignalNoiseRatio, behind PSFR-GAN's published table.
    """
    errors = list(errors)
    total = math.fsum(error * count for error, count in errors)
    mean = total / sum(count for _, count in errors)
    return float("inf") if mean == 0 else 10 * math.log10(peak ** 2 / mean)


def _smooth(image: np.ndarray) -> np.ndarray:
    """11x11 Gaussian window of sigma 1.5, where it fits entirely."""
    kernel = cv2.getGaussianKernel(11, 1.5)
    return cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)[5:-5, 5:-5]


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of arrays in 0..255, (H, W) or the mean over channels of (H, W, C).

    Gaussian window 11x11, sigma 1.5, population covariance, valid positions only.

    Raises:
        ValueError: a side below 11 pixels.

    Source: Wang et al. 2004.
    """
    if min(first.shape[:2]) < 11:
        raise ValueError(f"SSIM needs images of 11x11 pixels or more, got "
                         f"{first.shape[1]}x{first.shape[0]}")
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x = _smooth(x * x) - mean_x ** 2
    var_y = _smooth(y * y) - mean_y ** 2
    covariance = _smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)
                  / ((mean_x ** 2 + mean_y ** 2 + c1) * (var_x + var_y + c2)))
    return float(similarity.mean())


@dataclass(frozen=True)
class Protocol:
    """How images become numbers.

    Attributes:
        rounding: how a network's floats become bytes before anything is measured.
        view: what of an image is compared.
    """
    name: str
    rounding: str
    view: Callable[[np.ndarray], np.ndarray]
    text: str

    def measure(self, restored: np.ndarray, gt: np.ndarray) -> dict[str, float]:
        """PSNR and SSIM of two uint8 RGB (H, W, 3) images.

        Raises:
            ValueError: the sizes differ.
        """
        if restored.shape != gt.shape:
            raise ValueError(f"the restored image must have its target's size "
                             f"{gt.shape[1]}x{gt.shape[0]}, got "
                             f"{restored.shape[1]}x{restored.shape[0]}")
        first, second = self.view(restored), self.view(gt)
        return {"psnr": psnr(first, second), "ssim": ssim(first, second)}


PROTOCOLS = {
    "published": Protocol("published", "truncate", truncated_luma,
                          "Y of BT.601 truncated to bytes, network output truncated to bytes"),
    "standard": Protocol("standard", "round", lambda image: image.astype(np.float64),
                         "RGB in floating point, network output rounded to bytes"),
}
