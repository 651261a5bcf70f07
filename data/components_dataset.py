"""Aligned faces with boxes around eyes and mouth, as GFP-GAN is trained with."""
from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from data.base_dataset import BaseDegradation, FileDataset
from data.components import parts_of_names, read_components
from data.ffhq_dataset import gray
from utils.face_parts import boxes_of_parts, mirrored_parts, template_parts
from utils.images.resize import bicubic, flip


class ComponentsDataset(FileDataset):
    """A folder of FFHQ-aligned faces, resized, half of them mirrored in training.

    Args:
        component_file: positions of eyes and mouth by picture, see data.components; without it
            they are where FFHQ's alignment puts them.
        eye_enlarge_ratio: factor on the eyes' boxes.
        flip_prob: share of training pictures that are mirrored.
        gt_gray: where the degradation turns its result grey, turn the target grey too.
        others: see FileDataset.

    Raises:
        ValueError: a share outside 0 to 1, pictures the file does not know; what FileDataset
            refuses.

    Source: TencentARC/GFPGAN, ffhq_degradation_dataset.py.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if not is_train:
            return
        parser.add_argument("--component_file", metavar="FILE",
                            help="eye and mouth positions by picture, of `prepare.py components` "
                                 "or published (default: those of FFHQ's alignment)")
        parser.add_argument("--flip_prob", type=float, default=0.5,
                            help="share of training pictures mirrored")
        parser.add_argument("--gt_gray", action=argparse.BooleanOptionalAction, default=True,
                            help="turn the target grey where the degradation turned the input grey")

    def __init__(self, *, dataroot: str, split: str = "train", seed: int = 0, load_size: int = 512,
                 degrade: BaseDegradation | None = None, max_dataset_size: float | None = None,
                 num_val_images: int = 50, val_dataroot: str | None = None,
                 component_file: str | None = None, eye_enlarge_ratio: float = 1.4,
                 flip_prob: float = 0.5, gt_gray: bool = True):
        if not 0 <= flip_prob <= 1:
            raise ValueError(f"--flip_prob must be from 0 to 1, got {flip_prob}")
        if eye_enlarge_ratio <= 0:
            raise ValueError(f"--eye_enlarge_ratio must be positive, got {eye_enlarge_ratio}")
        super().__init__(dataroot=dataroot, split=split, seed=seed, load_size=load_size,
                         degrade=degrade, max_dataset_size=max_dataset_size,
                         num_val_images=num_val_images, val_dataroot=val_dataroot)
        self.flip_prob, self.gt_gray = flip_prob, gt_gray
        self.eye_enlarge_ratio = eye_enlarge_ratio
        self.parts = None
        if component_file and split == "train":
            table, size = read_components(component_file)
            found = parts_of_names(table, self.items, component_file)
            self.parts = [parts * (load_size / size) for parts in found]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        size = self.load_size
        gt = bicubic(self.read(index), size, size)
        parts = template_parts(size) if self.parts is None else self.parts[index]
        if self.split == "train" and rng.random() < self.flip_prob:
            gt, parts = flip(gt), mirrored_parts(parts, size)
        boxes = boxes_of_parts(parts, self.eye_enlarge_ratio).numpy()
        return {**self.pair(gt, rng), "boxes": boxes, "path": self.items[index]}

    def pair(self, gt: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if not (self.gt_gray and hasattr(self.degrade, "degrade")):
            return super().pair(gt, rng)
        lq, is_gray = self.degrade.degrade(gt, rng)
        return {"gt": gray(gt) if is_gray else gt, "lq": lq}
