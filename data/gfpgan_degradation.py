"""Blind degradation of GFP-GAN: Gaussian blur, shrinking, noise, JPEG, color shifts."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.base_dataset import BaseDegradation
from data.blur import gaussian_kernel
from data.color_jitter import color_jitter

# flag -> default, smallest and largest value, meaning
RANGES = {
    "kernel_sigma": ((0.1, 10.0), 0.01, 100, "standard deviations of the blur, in pixels"),
    "downsample_range": ((0.8, 8.0), 0.1, 64, "downscaling factor"),
    "noise_range": ((0.0, 20.0), 0, 255, "standard deviation of the noise, in gray levels"),
    "jpeg_range": ((60.0, 100.0), 0, 100, "JPEG quality, 0 to 100; 0 0 turns it off")}
SHARES = {
    "shift_prob": (0.3, "whose channels are shifted by up to --color_shift"),
    "jitter_prob": (0.3, "whose brightness, contrast, saturation and hue change"),
    "lq_gray_prob": (0.01, "turned gray")}


class GFPGANDegradation(BaseDegradation):
    """GFP-GAN's degradation, in the published order and ranges.

    Gaussian blur, round or elliptic; bilinear shrinking; colored noise; JPEG; bilinear
    upscaling; then sometimes a color shift, gray, a color jitter.

    Source: TencentARC/GFPGAN, options/train_gfpgan_v1.yml and ffhq_degradation_dataset.py.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDegradation.Settings):
        """The values of RANGES and SHARES, each range (low, high), and two numbers.

        Attributes:
            kernel_size: of the blur, in pixels; odd.
            color_shift: largest shift of a channel, in gray levels.
        """
        kernel_sigma: Sequence[float] = RANGES["kernel_sigma"][0]
        downsample_range: Sequence[float] = RANGES["downsample_range"][0]
        noise_range: Sequence[float] = RANGES["noise_range"][0]
        jpeg_range: Sequence[float] = RANGES["jpeg_range"][0]
        shift_prob: float = SHARES["shift_prob"][0]
        jitter_prob: float = SHARES["jitter_prob"][0]
        lq_gray_prob: float = SHARES["lq_gray_prob"][0]
        kernel_size: int = 41
        color_shift: float = 20.0

        def __post_init__(self) -> None:
            super().__post_init__()
            for name, (_, low, high, _) in RANGES.items():
                self.check_range(name, low, high)
            self.check_fractions(*SHARES)
            if self.kernel_size < 1 or self.kernel_size % 2 == 0:
                raise ValueError(f"--kernel_size must be odd and positive, got {self.kernel_size}")
            if not 0 <= self.color_shift <= 255:
                raise ValueError(f"--color_shift must be from 0 to 255, got {self.color_shift}")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        for name, (default, _, _, text) in RANGES.items():
            parser.add_argument(f"--{name}", type=float, nargs=2, default=list(default),
                                metavar=("LOW", "HIGH"), help=text)
        for name, (default, text) in SHARES.items():
            parser.add_argument(f"--{name}", type=float, default=default, metavar="FRACTION",
                                help=f"fraction of images {text}")
        parser.add_argument("--kernel_size", "--kernel_side", type=int, default=41,
                            metavar="PIXELS", help="kernel size of the blur, odd")
        parser.add_argument("--color_shift", "--colour_shift", type=float, default=20.0,
                            metavar="LEVELS", help="max shift of a channel, in gray levels")

    def check(self, load_size: int) -> None:
        largest = self.settings.downsample_range[1]
        if load_size < largest:
            raise ValueError(f"--downsample_range must leave a pixel of an image of --load_size "
                             f"{load_size}, got {largest:g}")

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.degrade(gt, rng)[0]

    def degrade(self, gt: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        (height, width), settings = gt.shape[:2], self.settings
        lq = blurred(gt.astype(np.float32) / 255, self.kernel(rng))
        lq = shrunk(lq, rng.uniform(*settings.downsample_range))
        noise = rng.standard_normal(lq.shape, dtype=np.float32)
        lq = noisy(lq, noise, rng.uniform(*settings.noise_range))
        if settings.jpeg_range[1] > 0:
            lq = compressed(lq, max(1, int(rng.uniform(*settings.jpeg_range))))
        lq = cv2.resize(lq, (width, height), interpolation=cv2.INTER_LINEAR)
        if rng.random() < settings.shift_prob:
            largest = settings.color_shift / 255
            lq = shifted(lq, rng.uniform(-largest, largest, 3))
        is_gray = bool(rng.random() < settings.lq_gray_prob)
        if is_gray:
            lq = cv2.cvtColor(cv2.cvtColor(lq, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if rng.random() < settings.jitter_prob:
            lq = color_jitter(lq, rng)
        return quantize(lq), is_gray

    def kernel(self, rng: np.random.Generator) -> np.ndarray:
        """A random kernel, round or elliptic with equal chances."""
        sigmas, side = self.settings.kernel_sigma, self.settings.kernel_size
        sigma = rng.uniform(*sigmas)
        if rng.random() < 0.5:
            return gaussian_kernel(side, (sigma, sigma))
        return gaussian_kernel(side, (sigma, rng.uniform(*sigmas)), rng.uniform(-np.pi, np.pi))


# ---- the steps, on float32 (H, W, 3) in [0, 1] ---------------------------------------------------

def blurred(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(image, -1, kernel)


def shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    """Bilinear without antialiasing; a factor below 1 upscales."""
    height, width = image.shape[:2]
    return cv2.resize(image, (int(width // factor), int(height // factor)),
                      interpolation=cv2.INTER_LINEAR)


def noisy(image: np.ndarray, noise: np.ndarray, sigma: float) -> np.ndarray:
    """Standard normal noise of the image's shape, scaled to `sigma` gray levels."""
    return np.clip(image + noise * np.float32(sigma / 255), 0, 1)


def shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """One number per channel added."""
    return np.clip(image + shift.astype(np.float32), 0, 1)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after a JPEG file of this quality."""
    _, data = cv2.imencode(".jpg", quantize(image)[..., ::-1],
                           [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


def quantize(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
