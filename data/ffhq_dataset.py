"""Aligned faces at full size, as FFHQ has them."""
from __future__ import annotations

import argparse
from typing import Any

import cv2
import numpy as np

from data.base_dataset import BaseDegradation, FileDataset
from utils.image import bicubic


class FFHQDataset(FileDataset):
    """FFHQ, or any folder of aligned faces: resized, some turned grey; no flip, no crop.

    Args:
        gray_prob: share of training pictures turned grey, target and input alike.
        others: see FileDataset.

    Raises:
        ValueError: gray_prob outside 0 to 1; what FileDataset refuses.

    Source: chaofengc/Face-SPARNet, chaofengc/PSFRGAN.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--gray_prob", type=float, default=0.3,
                                help="share of training pictures turned grey")

    def __init__(self, *, dataroot: str, split: str = "train", seed: int = 0, load_size: int = 512,
                 degrade: BaseDegradation | None = None, max_dataset_size: float | None = None,
                 num_val_images: int = 50, val_dataroot: str | None = None,
                 gray_prob: float = 0.3):
        if not 0 <= gray_prob <= 1:
            raise ValueError(f"--gray_prob must be from 0 to 1, got {gray_prob}")
        super().__init__(dataroot=dataroot, split=split, seed=seed, load_size=load_size,
                         degrade=degrade, max_dataset_size=max_dataset_size,
                         num_val_images=num_val_images, val_dataroot=val_dataroot)
        self.gray_prob = gray_prob

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        gt = bicubic(self.read(index), self.load_size, self.load_size)
        if self.split == "train" and rng.random() < self.gray_prob:
            gt = gray(gt)
        return {**self.pair(gt, rng), "path": self.items[index]}


def gray(image: np.ndarray) -> np.ndarray:
    """Luma of a uint8 RGB (H, W, 3) picture in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
