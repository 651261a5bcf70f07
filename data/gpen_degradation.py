"""Degradation of GPEN: Gaussian blur, shrinking, noise, JPEG, upscaling."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.base_dataset import BaseDegradation, draw_int
from data.blind_degradation import compress
from data.blur import gaussian_kernel

KERNEL_SIDE = 41
# flag -> default, bounds, what it is
RANGES = {
    "blur_sigma": ((0.1, 10.0), (0.01, 100.0), "standard deviations of the blur, in pixels"),
    "shrink": ((0.8, 8.0), (0.1, 512.0), "downscaling factor"),
    "noise_sigma": ((0.0, 20.0), (0.0, 255.0), "standard deviation of the noise, in gray levels"),
    "jpeg_quality": ((60, 99), (1, 100), "JPEG quality, 1 to 100")}


class GPENDegradation(BaseDegradation):
    """The degradation of GPEN's published training, in its order and ranges.

    Blur by a Gaussian, half of the time round, else elliptic and turned; bilinear shrinking (which
    may upscale a little); Gaussian noise in each channel; JPEG; bilinear upscaling.

    Source: yangxy/GPEN. The degradation of its paper was stronger and is not published.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDegradation.Settings):
        """The values of RANGES: each is (low, high), uniform between."""
        blur_sigma: Sequence[float] = RANGES["blur_sigma"][0]
        shrink: Sequence[float] = RANGES["shrink"][0]
        noise_sigma: Sequence[float] = RANGES["noise_sigma"][0]
        jpeg_quality: Sequence[int] = RANGES["jpeg_quality"][0]

        def __post_init__(self) -> None:
            super().__post_init__()
            for name, (_, bounds, _) in RANGES.items():
                self.check_range(name, *bounds)

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        for name, (default, _, text) in RANGES.items():
            parser.add_argument(f"--{name}", type=type(default[0]), nargs=2, default=list(default),
                                metavar=("LOW", "HIGH"), help=text)

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        (height, width), settings = gt.shape[:2], self.settings
        lq = cv2.filter2D(gt.astype(np.float32), -1, self.kernel(rng))
        factor = rng.uniform(*settings.shrink)
        small = (max(1, int(width // factor)), max(1, int(height // factor)))
        lq = cv2.resize(lq, small, interpolation=cv2.INTER_LINEAR)
        noise = rng.standard_normal(lq.shape, dtype=np.float32)
        lq = np.clip(lq + rng.uniform(*settings.noise_sigma) * noise, 0, 255)
        lq = compress(np.rint(lq).astype(np.uint8), draw_int(settings.jpeg_quality, rng))
        return cv2.resize(lq, (width, height), interpolation=cv2.INTER_LINEAR)

    def kernel(self, rng: np.random.Generator) -> np.ndarray:
        """A kernel of the blur, float64 (41, 41)."""
        sigmas = self.settings.blur_sigma
        if rng.random() < 0.5:
            sigma = rng.uniform(*sigmas)
            return gaussian_kernel(KERNEL_SIDE, (sigma, sigma))
        along, across = rng.uniform(*sigmas, 2)
        return gaussian_kernel(KERNEL_SIDE, (along, across), rng.uniform(-np.pi, np.pi))
