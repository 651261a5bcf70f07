"""PFSRNet's low resolution: Pillow's bilinear filter, halving three times, 8-bit images between.

One reduction in a single step gives other pixels (2.4 gray levels on average), and OpenCV's
bilinear, which does not antialias, very different ones.
"""
from __future__ import annotations

import numpy as np

from data.base_dataset import BaseDegradation
from utils.images.resize import bilinear

HALVINGS = 3


class PyramidDegradation(BaseDegradation):
    """An eighth of the target's side, as a small image; the network upscales it.

    Source: DeokyunKim/Progressive-Face-Super-Resolution.
    """

    def check(self, load_size: int) -> None:
        if load_size % 2 ** HALVINGS:
            raise ValueError(f"--load_size must be a multiple of {2 ** HALVINGS} for --degradation "
                             f"pyramid, got {load_size}")

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for _ in range(HALVINGS):
            gt = bilinear(gt, gt.shape[0] // 2, gt.shape[1] // 2)
        return gt
