"""Aligned faces at full size, as FFHQ has them."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
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
IMAGES, MASKS = "imgs1024", "masks512"


class FFHQDataset(FileDataset):
    """FFHQ, or any folder of aligned faces: resized, some turned gray; no flip, no crop.

    Where DATAROOT/imgs1024 exists the images are taken from there; DATAROOT may also be a list of
    images, whose label maps are looked for beside its folder.

    Raises:
        ValueError: the folder of masks does not exist; what FileDataset refuses.

    Source: chaofengc/Face-SPARNet, chaofengc/PSFRGAN.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(FileDataset.Settings):
        """What training varies, and where labels are.

        Attributes:
            gray_prob: fraction of training images turned gray, target and input alike.
            masks: folder of label maps, NAME.png for the image NAME.jpg, as `prepare.py masks`
                writes them; they become `labels`, also of validation images. None takes
                DATAROOT/masks512 where that exists, "none" leaves labels out. Those of
                --val_dataroot are in its own masks512.
        """
        load_size: int = 512
        gray_prob: float = 0.3
        masks: str | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_fractions("gray_prob")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--gray_prob", type=float, default=0.3, metavar="FRACTION",
                                help="fraction of training images turned gray")
            parser.add_argument("--masks", metavar="DIR",
                                help="folder of label maps, written by `prepare.py masks`; none "
                                     "reads no labels (default: DATAROOT/masks512, if it exists)")

    def __init__(self, settings: Settings, *, split: str = "train",
                 degrade: BaseDegradation | None = None):
        super().__init__(settings, split=split, degrade=degrade)
        self.masks = None       # measuring restored images needs no labels
        if split == "val" and settings.val_dataroot:
            own = "none" if settings.masks == "none" else None      # --masks belongs to --dataroot
            self.masks = masks_of(settings.val_dataroot, own)
        elif split != "test":
            self.masks = masks_of(settings.dataroot, settings.masks)

    @staticmethod
    def images_of(dataroot: str) -> str:
        inside = Path(dataroot) / IMAGES
        return str(inside) if inside.is_dir() else dataroot

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        size = self.settings.load_size
        gt = bicubic(self.read(index), size, size)
        if self.split == "train" and rng.random() < self.settings.gray_prob:
            gt = gray(gt)
        sample = {**self.pair(gt, rng), "path": self.items[index]}
        if self.masks is not None:
            path = (self.masks / self.items[index]).with_suffix(".png")
            sample["labels"] = read_label_map(path, size)
        return sample


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
        raise ValueError(f"--masks {masks} does not exist")
    return folder if folder.is_dir() else None


def gray(image: np.ndarray) -> np.ndarray:
    """Luma of a uint8 RGB (H, W, 3) image in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
