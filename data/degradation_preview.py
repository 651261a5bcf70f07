"""A look at what a network will be trained on."""
from __future__ import annotations

import numpy as np

from data.base_dataset import BaseDataset
from utils.images.convert import image_grid

ROWS, COLUMNS = 6, 5


def degradation_grid(dataset: BaseDataset) -> np.ndarray:
    """Targets and low-quality images of the first samples, as training draws them.

    Returns:
        uint8 RGB: a row per sample, the target and then its input in several epochs.

    Raises:
        ValueError: the data set gives no pairs, or no readable image.
    """
    rows = []
    for index in range(min(ROWS, len(dataset))):
        samples = [dataset[(epoch, index)] for epoch in range(COLUMNS)]
        pairs = [sample for sample in samples if "lq" in sample and "gt" in sample]
        if pairs:
            rows.append([pairs[0]["gt"], *(sample["lq"] for sample in pairs)])
    if not rows:
        raise ValueError("--preview_degradation needs a data set of image pairs; choose another "
                         "--dataset_name")
    return image_grid(rows, labels=["target", *(f"epoch {i + 1}" for i in range(COLUMNS))])
