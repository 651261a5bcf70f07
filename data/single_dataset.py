"""Images to restore: no target, nothing random."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.base_dataset import BaseDataset
from utils.images.io import find_images, read_image, warn_left_out
from utils.images.resize import bicubic


class SingleDataset(BaseDataset):
    """One image, a folder (with subfolders) or a glob, resized to load_size x load_size.

    Samples hold `lq` and `path` only. It has no validation part: every split is all of it.

    Raises:
        ValueError: --dataroot names no image; what BaseDataset refuses.
    """
    has_targets = False

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDataset.Settings):
        """`dataroot`: the image, the folder or the glob."""
        dataroot: str

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.dataroot:
                raise ValueError("--dataroot is missing: give an image, a folder or a glob")

    settings: Settings

    def find_items(self) -> list[str]:
        self.root, paths = find_images(self.settings.dataroot)
        warn_left_out(self.settings.dataroot)
        return [path.relative_to(self.root).as_posix() for path in paths]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        name, size = self.items[index], self.settings.load_size
        lq = bicubic(read_image(self.root / name), size, size)
        return {"lq": lq, "path": name}
