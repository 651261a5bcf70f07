"""Low resolution by Pillow's bicubic filter: SPARNet's and DICNet's test and training input."""
from __future__ import annotations

import argparse

import numpy as np

from data.base_dataset import BaseDegradation
from utils.images.resize import bicubic


class BicubicDegradation(BaseDegradation):
    """Shrink by a whole factor, then enlarge to the old size, both on 8-bit pictures."""

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        parser.add_argument("--scale_factor", type=int, default=8,
                            help="the degraded image holds 1/scale_factor of the pixels per side")

    def __init__(self, *, scale_factor: int = 8):
        if scale_factor < 1:
            raise ValueError(f"--scale_factor must be at least 1, got {scale_factor}")
        self.scale = scale_factor

    def check(self, load_size: int) -> None:
        if load_size % self.scale:
            raise ValueError(f"--load_size must be a multiple of --scale_factor ({self.scale}), "
                             f"got {load_size}")

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = gt.shape[:2]
        small = bicubic(gt, height // self.scale, width // self.scale)
        return bicubic(small, height, width)
