"""Blind degradation of SPARNetHD and PSFR-GAN: blur, shrink, noise, JPEG, upscale."""
from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from data.base_dataset import BaseDegradation, draw_int
from data.blur import box_blur, gaussian_blur, median_blur, motion_blur

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)
# flag -> default, unit and type; both ends belong to the range
RANGES = {
    "gaussian_sigma": ((3.0, 15.0), "standard deviation of Gaussian blur, in pixels", float),
    "blur_size": ((3, 15), "kernel size of box and median blur, in pixels", int),
    "motion_size": ((5, 25), "length of motion blur, in pixels", int),
    "lq_size": ((32, 127), "size that images are downscaled to, in pixels", int),
    "noise_sigma": ((0.0, 25.5), "standard deviation of the noise, in gray levels", float),
    "jpeg_quality": ((37, 90), "JPEG quality, 1 to 100", int)}
SHARES = {"blur_prob": (0.5, "blurred"), "noise_prob": (0.2, "with noise added"),
          "jpeg_prob": (0.7, "compressed as JPEG")}


class BlindDegradation(BaseDegradation):
    """Degradation of real photographs, in the published order and ranges.

    One of four blurs; shrinking by nearest, linear, area or cubic interpolation; Gaussian noise,
    gray or colored; JPEG; cubic upscaling.

    Source: chaofengc/Face-SPARNet, chaofengc/PSFRGAN (which shrinks to 32 to 255 pixels).
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDegradation.Settings):
        """The values of RANGES and SHARES; each range is (low, high), both included."""
        gaussian_sigma: Sequence[float] = RANGES["gaussian_sigma"][0]
        blur_size: Sequence[int] = RANGES["blur_size"][0]
        motion_size: Sequence[int] = RANGES["motion_size"][0]
        lq_size: Sequence[int] = RANGES["lq_size"][0]
        noise_sigma: Sequence[float] = RANGES["noise_sigma"][0]
        jpeg_quality: Sequence[int] = RANGES["jpeg_quality"][0]
        blur_prob: float = SHARES["blur_prob"][0]
        noise_prob: float = SHARES["noise_prob"][0]
        jpeg_prob: float = SHARES["jpeg_prob"][0]

        def __post_init__(self) -> None:
            super().__post_init__()
            for name, low, high in (("gaussian_sigma", 0.1, 100), ("blur_size", 1, 99),
                                    ("motion_size", 3, 99), ("lq_size", 2, 4096),
                                    ("noise_sigma", 0, 255), ("jpeg_quality", 1, 100)):
                self.check_range(name, low, high)
            self.check_fractions(*SHARES)

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        for name, (default, text, kind) in RANGES.items():
            parser.add_argument(f"--{name}", type=kind, nargs=2, default=list(default),
                                metavar=("LOW", "HIGH"), help=text)
        for name, (default, text) in SHARES.items():
            parser.add_argument(f"--{name}", type=float, default=default, metavar="FRACTION",
                                help=f"fraction of images {text}")

    def check(self, load_size: int) -> None:
        low, high = self.settings.lq_size
        if high > load_size:
            raise ValueError(f"--lq_size must not be above --load_size ({load_size}), got {low} "
                             f"{high}")

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        settings = self.settings
        lq = self.blur(gt, rng) if rng.random() < settings.blur_prob else gt
        side = draw_int(settings.lq_size, rng)
        lq = cv2.resize(lq, (side, side), interpolation=INTERPOLATIONS[rng.integers(4)])
        if rng.random() < settings.noise_prob:
            lq = add_noise(lq, rng.uniform(*settings.noise_sigma), rng.random() < 0.5, rng)
        if rng.random() < settings.jpeg_prob:
            lq = compress(lq, self._quality(rng))
        return cv2.resize(lq, (gt.shape[1], gt.shape[0]), interpolation=cv2.INTER_CUBIC)

    def blur(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One of the four blurs, with equal probability."""
        settings, kind = self.settings, rng.integers(4)
        if kind == 0:
            return gaussian_blur(image, rng.uniform(*settings.gaussian_sigma))
        if kind == 1:
            return box_blur(image, draw_int(settings.blur_size, rng))
        if kind == 2:
            return median_blur(image, draw_int(settings.blur_size, rng))
        return motion_blur(image, draw_int(settings.motion_size, rng), rng.uniform(0, 360),
                           rng.uniform(-1, 1))

    def _quality(self, rng: np.random.Generator) -> int:
        """The original draws a whole percentage of compression, not the quality."""
        low, high = self.settings.jpeg_quality
        return quality_of(draw_int((_compression_of(high), _compression_of(low)), rng))


def add_noise(image: np.ndarray, sigma: float, colored: bool,
              rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of `sigma` gray levels, rounded; the same in all channels unless colored."""
    noise = rng.normal(0, sigma, (*image.shape[:2], 3 if colored else 1))
    return add_values(image, noise)


def add_values(image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """uint8 image plus rounded noise of its shape or with one channel, clipped."""
    return np.clip(image + np.rint(noise), 0, 255).astype(np.uint8)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after a JPEG file of this quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def quality_of(compression: float) -> int:
    """JPEG quality 1 to 100 for imgaug's compression 0 to 100, which it truncates first."""
    return round(1 + 99 * (1 - int(compression) / 101))


def _compression_of(quality: int) -> int:
    return round(101 * (1 - (quality - 1) / 99))
