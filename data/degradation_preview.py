"""Preview of the images a network will be trained on."""
from __future__ import annotations

import numpy as np

from data.base_dataset import BaseDataset
from utils.images.convert import image_grid

ROWS, EPOCHS = 6, 3


def degradation_grid(dataset: BaseDataset) -> np.ndarray:
    """Targets and low-quality images of the first samples, as training draws them.

    Returns:
        uint8 RGB: a row per sample, with target and input in each of several epochs.

    Raises:
        ValueError: the dataset has no pairs, or no readable image.
    """
    rows = []
    for index in range(min(ROWS, len(dataset))):
        samples = [dataset[(epoch, index)] for epoch in range(EPOCHS)]
        pairs = [sample for sample in samples if "lq" in sample and "gt" in sample]
        if pairs:
            rows.append([sample[key] for sample in pairs for key in ("gt", "lq")])
    if not rows:
        raise ValueError("--preview_degradation needs a dataset of image pairs; choose another "
                         "--dataset_name")
    return image_grid(rows, labels=[f"{name} {epoch + 1}" for epoch in range(EPOCHS)
                                    for name in ("target", "input")])
