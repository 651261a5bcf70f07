"""No degradation, for networks that work on good images."""
from __future__ import annotations

import numpy as np

from data.base_dataset import BaseDegradation


class NoneDegradation(BaseDegradation):
    """The target itself."""

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return gt
