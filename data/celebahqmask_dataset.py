"""Faces with maps of their regions, as CelebAMask-HQ has them."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.base_dataset import FileDataset
from data.ffhq_dataset import gray
from data.labels import mirrored, read_label_map
from utils.images.image_list import is_list
from utils.images.io import root_of
from utils.images.resize import bicubic, flip

IMAGES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask"


class CelebAHQMaskDataset(FileDataset):
    """CelebAMask-HQ after its own preparation script, or faces and label maps in that form.

    `<dataroot>/CelebA-HQ-img/NAME.jpg` belongs to `<dataroot>/CelebAMask-HQ-mask/NAME.png`, whose
    gray levels are the labels of data.labels.LABELS; `prepare.py labels` makes such maps of the
    published part masks. A map that is missing or is none counts as an unreadable image.
    `dataroot` may also be a list of images in CelebA-HQ-img.

    Raises:
        ValueError: there is no folder of maps; what FileDataset refuses.

    Source: chaofengc/PSFRGAN.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(FileDataset.Settings):
        """What training varies.

        Attributes:
            gray_prob: fraction of training images turned gray, target and input alike.
            flip_prob: fraction of training images that are mirrored; 0 is published.
        """
        load_size: int = 512
        gray_prob: float = 0.3
        flip_prob: float = 0.0

        def __post_init__(self) -> None:
            if not self.dataroot:
                raise ValueError(f"--dataroot is missing: give a folder with {IMAGES} and {MASKS}")
            super().__post_init__()
            self.check_fractions("gray_prob", "flip_prob")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--gray_prob", type=float, default=0.3, metavar="FRACTION",
                                help="fraction of training images turned gray")
            parser.add_argument("--flip_prob", type=float, default=0.0, metavar="FRACTION",
                                help="fraction of training images flipped left to right with "
                                     "their labels")

    def find_items(self) -> list[str]:
        self.masks = root_of(self.source()).parent / MASKS
        if not self.masks.is_dir():
            raise ValueError(f"label maps must be in {self.masks}, which does not exist; write "
                             f"them with prepare.py labels")
        return super().find_items()

    @staticmethod
    def images_of(dataroot: str) -> str:
        return dataroot if is_list(dataroot) else str(Path(dataroot) / IMAGES)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        size = self.settings.load_size
        gt = bicubic(self.read(index), size, size)
        labels = self.read_labels(index)
        if self.split == "train":
            if rng.random() < self.settings.flip_prob:
                gt, labels = flip(gt), mirrored(labels)
            if rng.random() < self.settings.gray_prob:
                gt = gray(gt)
        return {**self.pair(gt, rng), "labels": labels, "path": self.items[index]}

    def read_labels(self, index: int) -> np.ndarray:
        """Label map of an item, uint8 (load_size, load_size).

        Raises:
            BadImage: no such file, or no label map.
        """
        path = (self.masks / self.items[index]).with_suffix(".png")
        return read_label_map(path, self.settings.load_size)
