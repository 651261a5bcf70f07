"""Pictures to be restored: no target, nothing random."""
from __future__ import annotations

from typing import Any

import numpy as np

from data.base_dataset import BaseDataset
from utils.images.io import find_images, read_image
from utils.images.resize import bicubic


class SingleDataset(BaseDataset):
    """One picture, a folder (with subfolders) or a glob, resized to load_size x load_size.

    Samples hold `lq` and `path` only. It has no validation part: every split is all of it.

    Raises:
        ValueError: --dataroot names no picture; what BaseDataset refuses.
    """
    has_targets = False

    def __init__(self, *, dataroot: str, split: str = "test", load_size: int = 128,
                 max_dataset_size: float | None = None):
        if not dataroot:
            raise ValueError("--dataroot must name an image, a folder or a glob, got nothing")
        self.root, paths = find_images(dataroot)
        names = [path.relative_to(self.root).as_posix() for path in paths]
        super().__init__(items=names, split=split, load_size=load_size,
                         max_dataset_size=max_dataset_size)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        name = self.items[index]
        lq = bicubic(read_image(self.root / name), self.load_size, self.load_size)
        return {"lq": lq, "path": name}
