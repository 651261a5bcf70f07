"""Aligned faces as GPEN's training reads them."""
from __future__ import annotations

import argparse
from typing import Any

import cv2
import numpy as np

from data.base_dataset import BaseDegradation, FileDataset
from data.ffhq_dataset import gray
from utils.images.resize import flip


class GPENDataset(FileDataset):
    """A folder of aligned faces: resized by area, mirrored, some grey in target and input alike.

    Grey targets teach the network to leave grey pictures grey.

    Args:
        flip_prob: share of training pictures that are mirrored.
        gray_prob: share of training pictures turned grey.
        others: see FileDataset.

    Raises:
        ValueError: a share outside 0 to 1; what FileDataset refuses.

    Source: yangxy/GPEN.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            for name, default, text in (("flip", 0.5, "mirrored"), ("gray", 0.2, "turned grey")):
                parser.add_argument(f"--{name}_prob", type=float, default=default,
                                    help=f"share of training pictures {text}")

    def __init__(self, *, dataroot: str, split: str = "train", seed: int = 0, load_size: int = 512,
                 degrade: BaseDegradation | None = None, max_dataset_size: float | None = None,
                 num_val_images: int = 50, val_dataroot: str | None = None,
                 flip_prob: float = 0.5, gray_prob: float = 0.2):
        for flag, share in (("--flip_prob", flip_prob), ("--gray_prob", gray_prob)):
            if not 0 <= share <= 1:
                raise ValueError(f"{flag} must be from 0 to 1, got {share}")
        super().__init__(dataroot=dataroot, split=split, seed=seed, load_size=load_size,
                         degrade=degrade, max_dataset_size=max_dataset_size,
                         num_val_images=num_val_images, val_dataroot=val_dataroot)
        self.flip_prob, self.gray_prob = flip_prob, gray_prob

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        size = (self.load_size, self.load_size)
        gt = cv2.resize(self.read(index), size, interpolation=cv2.INTER_AREA)
        if self.split == "train":
            gt = flip(gt) if rng.random() < self.flip_prob else gt
            gt = gray(gt) if rng.random() < self.gray_prob else gt
        return {**self.pair(gt, rng), "path": self.items[index]}
