"""Faces with maps of their regions, as CelebAMask-HQ has them."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from data.base_dataset import BaseDegradation, FileDataset
from data.ffhq_dataset import gray
from data.labels import mirrored, read_label_map
from utils.images.image_list import is_list
from utils.images.io import root_of
from utils.images.resize import bicubic, flip

PICTURES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask"


class CelebAHQMaskDataset(FileDataset):
    """CelebAMask-HQ after its own preparation script, or faces and label maps in that form.

    `<dataroot>/CelebA-HQ-img/NAME.jpg` belongs to `<dataroot>/CelebAMask-HQ-mask/NAME.png`, whose
    grey levels are the labels of data.labels.LABELS; `prepare.py labels` makes such maps of the
    published part masks. A map that is missing or is none counts as an unreadable picture.
    `dataroot` may also be a list of pictures in CelebA-HQ-img.

    Args:
        gray_prob: share of training pictures turned grey, target and input alike.
        flip_prob: share of training pictures that are mirrored; 0 is published.
        others: see FileDataset.

    Raises:
        ValueError: a share outside 0 to 1, no folder of maps; what FileDataset refuses.

    Source: chaofengc/PSFRGAN.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--gray_prob", type=float, default=0.3,
                                help="share of training pictures turned grey")
            parser.add_argument("--flip_prob", type=float, default=0.0,
                                help="share of training pictures mirrored, labels with them")

    def __init__(self, *, dataroot: str, split: str = "train", seed: int = 0, load_size: int = 512,
                 degrade: BaseDegradation | None = None, max_dataset_size: float | None = None,
                 num_val_images: int = 50, val_dataroot: str | None = None,
                 gray_prob: float = 0.3, flip_prob: float = 0.0):
        for flag, share in (("--gray_prob", gray_prob), ("--flip_prob", flip_prob)):
            if not 0 <= share <= 1:
                raise ValueError(f"{flag} must be from 0 to 1, got {share}")
        if not dataroot:
            raise ValueError(f"--dataroot must name a folder with {PICTURES} and {MASKS}")
        pictures, val_pictures = pictures_of(dataroot), pictures_of(val_dataroot)
        used = val_pictures if val_pictures and split == "val" else pictures
        self.masks = root_of(used).parent / MASKS
        if not self.masks.is_dir():
            raise ValueError(f"{self.masks}: no such folder; label maps are expected there, as "
                             "`prepare.py labels` writes them")
        super().__init__(dataroot=pictures, split=split, seed=seed, load_size=load_size,
                         degrade=degrade, max_dataset_size=max_dataset_size,
                         num_val_images=num_val_images, val_dataroot=val_pictures)
        self.gray_prob, self.flip_prob = gray_prob, flip_prob

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        gt = bicubic(self.read(index), self.load_size, self.load_size)
        labels = self.read_labels(index)
        if self.split == "train":
            if rng.random() < self.flip_prob:
                gt, labels = flip(gt), mirrored(labels)
            if rng.random() < self.gray_prob:
                gt = gray(gt)
        return {**self.pair(gt, rng), "labels": labels, "path": self.items[index]}

    def read_labels(self, index: int) -> np.ndarray:
        """Label map of an item, uint8 (load_size, load_size).

        Raises:
            BadImage: no such file, or no label map.
        """
        path = (self.masks / self.items[index]).with_suffix(".png")
        return read_label_map(path, self.load_size)


def pictures_of(dataroot: str | None) -> str | None:
    """The folder of pictures inside the published layout, or the list that names some of them."""
    return str(Path(dataroot) / PICTURES) if dataroot and not is_list(dataroot) else dataroot
