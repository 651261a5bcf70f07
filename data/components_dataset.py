"""Aligned faces with boxes around eyes and mouth, as GFP-GAN is trained with."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.base_dataset import BaseDegradation, FileDataset
from data.components import parts_of_names, read_components
from data.ffhq_dataset import gray
from utils.face_parts import boxes_of_parts, mirrored_parts, template_parts
from utils.images.resize import bicubic, flip


class ComponentsDataset(FileDataset):
    """A folder of FFHQ-aligned faces, resized, half of them mirrored in training.

    Raises:
        ValueError: images the component file does not know; what FileDataset refuses.

    Source: TencentARC/GFPGAN, ffhq_degradation_dataset.py.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(FileDataset.Settings):
        """Where the boxes come from, and what training varies.

        Attributes:
            component_file: positions of eyes and mouth by image, see data.components; without it
                they are where FFHQ's alignment puts them.
            eye_enlarge_ratio: factor on the eyes' boxes; a flag of --model gfpgan.
            flip_prob: fraction of training images that are mirrored.
            gt_gray: where the degradation turns its result gray, turn the target gray too.
        """
        load_size: int = 512
        component_file: str | None = None
        eye_enlarge_ratio: float = 1.4
        flip_prob: float = 0.5
        gt_gray: bool = True

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_fractions("flip_prob")
            if self.eye_enlarge_ratio <= 0:
                raise ValueError(f"--eye_enlarge_ratio must be positive, got "
                                 f"{self.eye_enlarge_ratio}")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if not is_train:
            return
        parser.add_argument("--component_file", metavar="FILE",
                            help="eye and mouth positions in each image, the published file or "
                                 "one of `prepare.py components` (default: mean positions in FFHQ)")
        parser.add_argument("--flip_prob", type=float, default=0.5, metavar="FRACTION",
                            help="fraction of training images flipped left to right")
        parser.add_argument("--gt_gray", action=argparse.BooleanOptionalAction, default=True,
                            help="turn the target gray, too, if the degradation turned the input "
                                 "gray").rare = True

    def __init__(self, settings: Settings, *, split: str = "train",
                 degrade: BaseDegradation | None = None):
        super().__init__(settings, split=split, degrade=degrade)
        self.parts = None
        if settings.component_file and split == "train":
            table, size = read_components(settings.component_file)
            found = parts_of_names(table, self.items, settings.component_file)
            self.parts = [parts * (settings.load_size / size) for parts in found]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        size = self.settings.load_size
        gt = bicubic(self.read(index), size, size)
        parts = template_parts(size) if self.parts is None else self.parts[index]
        if self.split == "train" and rng.random() < self.settings.flip_prob:
            gt, parts = flip(gt), mirrored_parts(parts, size)
        boxes = boxes_of_parts(parts, self.settings.eye_enlarge_ratio).numpy()
        return {**self.pair(gt, rng), "boxes": boxes, "path": self.items[index]}

    def pair(self, gt: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self.degrade is None or not self.settings.gt_gray:
            return super().pair(gt, rng)
        lq, is_gray = self.degrade.degrade(gt, rng)
        return {"gt": gray(gt) if is_gray else gt, "lq": lq}
