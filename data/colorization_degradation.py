"""Colorization: the input is the target without its colors."""
from __future__ import annotations

import numpy as np

from data.base_dataset import BaseDegradation
from data.ffhq_dataset import gray


class ColorizationDegradation(BaseDegradation):
    """Gray image in three channels; nothing random."""

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return gray(gt)
