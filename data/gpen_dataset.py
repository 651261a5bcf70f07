"""Aligned faces as GPEN's training reads them."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from data.base_dataset import FileDataset
from data.ffhq_dataset import gray
from utils.images.resize import flip


class GPENDataset(FileDataset):
    """A folder of aligned faces: resized by area, mirrored, some gray in target and input alike.

    Gray targets teach the network to leave gray images gray.

    Source: yangxy/GPEN.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(FileDataset.Settings):
        """What training varies.

        Attributes:
            flip_prob: fraction of training images that are mirrored.
            gray_prob: fraction of training images turned gray.
        """
        load_size: int = 512
        flip_prob: float = 0.5
        gray_prob: float = 0.2

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_fractions("flip_prob", "gray_prob")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            for name, default, text in (("flip", 0.5, "flipped left to right"),
                                        ("gray", 0.2, "turned gray")):
                parser.add_argument(f"--{name}_prob", type=float, default=default,
                                    metavar="FRACTION",
                                    help=f"fraction of training images {text}")

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        size = (self.settings.load_size, self.settings.load_size)
        gt = cv2.resize(self.read(index), size, interpolation=cv2.INTER_AREA)
        if self.split == "train":
            gt = flip(gt) if rng.random() < self.settings.flip_prob else gt
            gt = gray(gt) if rng.random() < self.settings.gray_prob else gt
        return {**self.pair(gt, rng), "path": self.items[index]}
