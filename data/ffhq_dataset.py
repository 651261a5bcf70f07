"""Aligned faces at full size, as FFHQ has them."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.base_dataset import BaseDegradation, FileDataset
from data.labels import read_label_map
from utils.images.image_list import is_list
from utils.images.io import root_of
from utils.images.resize import bicubic

# The published folders.
PICTURES, MASKS = "imgs1024", "masks512"


class FFHQDataset(FileDataset):
    """FFHQ, or any folder of aligned faces: resized, some turned grey; no flip, no crop.

    Where DATAROOT/imgs1024 exists the pictures are taken from there; DATAROOT may also be a list of
    pictures, whose label maps are looked for beside its folder.

    Args:
        masks: folder of label maps, NAME.png for the picture NAME.jpg, as `prepare.py masks` writes
            them; they become `labels`. None takes DATAROOT/masks512 where that exists, "none"
            leaves labels out.
        gray_prob: share of training pictures turned grey, target and input alike.
        others: see FileDataset.

    Raises:
        ValueError: gray_prob outside 0 to 1, no such folder of masks; what FileDataset refuses.

    Source: chaofengc/Face-SPARNet, chaofengc/PSFRGAN.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--gray_prob", type=float, default=0.3,
                                help="share of training pictures turned grey")
            parser.add_argument("--masks", metavar="DIR",
                                help="folder of label maps written by `prepare.py masks`; none: "
                                     "labels are not read (default: DATAROOT/masks512 where there "
                                     "is one)")

    def __init__(self, *, dataroot: str, split: str = "train", seed: int = 0, load_size: int = 512,
                 degrade: BaseDegradation | None = None, max_dataset_size: float | None = None,
                 num_val_images: int = 50, val_dataroot: str | None = None,
                 gray_prob: float = 0.3, masks: str | None = None):
        if not 0 <= gray_prob <= 1:
            raise ValueError(f"--gray_prob must be from 0 to 1, got {gray_prob}")
        super().__init__(dataroot=pictures_of(dataroot), split=split, seed=seed,
                         load_size=load_size, degrade=degrade, max_dataset_size=max_dataset_size,
                         num_val_images=num_val_images, val_dataroot=pictures_of(val_dataroot))
        self.gray_prob = gray_prob
        # Measuring restored pictures needs no labels.
        self.masks = masks_of(dataroot, masks) if split == "train" else None

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        gt = bicubic(self.read(index), self.load_size, self.load_size)
        if self.split == "train" and rng.random() < self.gray_prob:
            gt = gray(gt)
        sample = {**self.pair(gt, rng), "path": self.items[index]}
        if self.masks is not None:
            path = (self.masks / self.items[index]).with_suffix(".png")
            sample["labels"] = read_label_map(path, self.load_size)
        return sample


def pictures_of(dataroot: str | None) -> str | None:
    """The folder of pictures inside the published layout, else the folder itself."""
    inside = Path(dataroot or ".") / PICTURES
    return str(inside) if dataroot and inside.is_dir() else dataroot


def masks_of(dataroot: str, masks: str | None) -> Path | None:
    """Where the label maps are, if there are any.

    Raises:
        ValueError: --masks names no folder.
    """
    if masks == "none":
        return None
    above = root_of(dataroot).parent if is_list(dataroot) else Path(dataroot)
    folder = Path(masks or above / MASKS)
    if masks and not folder.is_dir():
        raise ValueError(f"--masks {masks}: no such folder")
    return folder if folder.is_dir() else None


def gray(image: np.ndarray) -> np.ndarray:
    """Luma of a uint8 RGB (H, W, 3) picture in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
