"""Faces to be made from colored maps of their regions."""
from __future__ import annotations

from typing import Any

import numpy as np

from data.celebahqmask_dataset import CelebAHQMaskDataset
from data.labels import color_map


class Seg2FaceDataset(CelebAHQMaskDataset):
    """CelebAMask-HQ with the colored label map as input instead of a degraded image.

    Maps in other colors: --dataset_name folder --lq_dataroot MAPS.
    """

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        found = super().sample(index, rng)
        return {**found, "lq": color_map(found["labels"])}
