"""Low resolution by Pillow's bicubic filter: SPARNet's and DICNet's test and training input."""
from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from data.base_dataset import BaseDegradation
from utils.images.resize import bicubic


class BicubicDegradation(BaseDegradation):
    """Shrink by a whole factor, then upscale to the old size, both on 8-bit images."""

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDegradation.Settings):
        """`scale_factor`: how many pixels become one, per side."""
        scale_factor: int = 8

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.scale_factor < 1:
                raise ValueError(f"--scale_factor must be at least 1, got {self.scale_factor}")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        parser.add_argument("--scale_factor", type=int, default=8, metavar="N",
                            help="downscaling factor: the low-quality image has 1/N of the "
                                 "target's height and width")

    def check(self, load_size: int) -> None:
        scale = self.settings.scale_factor
        if load_size % scale:
            raise ValueError(f"--load_size must be a multiple of --scale_factor ({scale}), got "
                             f"{load_size}")

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        (height, width), scale = gt.shape[:2], self.settings.scale_factor
        small = bicubic(gt, height // scale, width // scale)
        return bicubic(small, height, width)
