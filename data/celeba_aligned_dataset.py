"""CelebA's aligned pictures as PFSRNet was trained and evaluated on them."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.base_dataset import BaseDegradation, FileDataset
from utils.images.image_list import is_list
from utils.images.resize import CELEBA_CROP, bilinear, centre_crop, flip

PARTITION = "list_eval_partition.txt"
PARTS = {"train": "0", "val": "1", "test": "2"}
# Folders above the pictures and below those, where the official split is looked for. It ships in
# Eval; the published code reads Anno.
PLACES = (".", "Eval", "Anno")
MAX_ROTATION = 20.0     # degrees
JITTER, MAX_HUE = 0.4, 0.1


class CelebAAlignedDataset(FileDataset):
    """Centre crops of 178 x 178, reduced by Pillow's bilinear filter.

    Where `list_eval_partition.txt` lies beside the pictures or above them, in a folder `Eval` or
    `Anno` too, the official split is used; otherwise pictures are held out as everywhere. A
    picture smaller than 178 pixels gives the largest square from its middle.

    Args:
        data_augment: in training flip, rotate and change colours at random.

    Source: DeokyunKim/Progressive-Face-Super-Resolution, dataloader.py.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--data_augment", action=argparse.BooleanOptionalAction,
                                default=False,
                                help="flip, rotate by up to 20 degrees and change colours at "
                                     "random")

    def __init__(self, *, dataroot: str, split: str = "train", seed: int = 0, load_size: int = 128,
                 degrade: BaseDegradation | None = None, max_dataset_size: float | None = None,
                 num_val_images: int = 50, val_dataroot: str | None = None,
                 data_augment: bool = False):
        super().__init__(dataroot=dataroot, split=split, seed=seed, load_size=load_size,
                         degrade=degrade, num_val_images=num_val_images, val_dataroot=val_dataroot,
                         max_dataset_size=None)
        self.augmented = data_augment and split == "train"
        partition = None if is_list(dataroot) else find_partition(self.root)
        if partition is not None and not val_dataroot:
            names = list(part_names(partition, PARTS[split]))
            if split == "val":
                names = names[:num_val_images]
            there = set(FileDataset(dataroot=dataroot, split="test").items)
            self.items = [name for name in sorted(names) if name in there]
            if names and not self.items:
                raise ValueError(f"{partition} names {names[0]} and others, none of which is in "
                                 f"{self.root}")
        if max_dataset_size is not None:
            if max_dataset_size < 1:
                raise ValueError(f"--max_dataset_size must be at least 1, got {max_dataset_size}")
            self.items = self.items[:int(min(max_dataset_size, len(self.items)))]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image = self.read(index)
        gt = centre_crop(image, min(CELEBA_CROP, *image.shape[:2]))
        if self.augmented and rng.random() < 0.5:
            gt = flip(gt)
        gt = bilinear(gt, self.load_size, self.load_size)
        if self.augmented:
            gt = change_colours(rotated(gt, rng.uniform(-MAX_ROTATION, MAX_ROTATION)), rng)
        return {**self.pair(gt, rng), "path": self.items[index]}


def find_partition(folder: Path) -> Path | None:
    """The official split's file for pictures in a folder, if there is one."""
    for above in (folder, *folder.resolve().parents[:2]):
        for place in PLACES:
            if (found := above / place / PARTITION).is_file():
                return found
    return None


def part_names(path: Path, part: str) -> list[str]:
    """Names of the pictures in a part of the split, "0", "1" or "2", in the file's order.

    Raises:
        ValueError: a line that is not a name and a number.
    """
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in PARTS.values():
            raise ValueError(f"{path}, line {number}: expected a name and 0, 1 or 2, got {line!r}")
        if fields[1] == part:
            names.append(fields[0])
    return names


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned about its centre; corners are filled by reflection, where the published code leaves
    them black and the network learns to draw black corners."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REFLECT_101)


def change_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation by factors of 0.6 to 1.4 and hue by up to a tenth of the
    circle, in random order."""
    factors = rng.uniform(1 - JITTER, 1 + JITTER, 3)
    shift = rng.uniform(-MAX_HUE, MAX_HUE)
    x = image.astype(np.float32)
    for change in rng.permutation(4):
        grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
        if change == 0:
            x = x * factors[0]
        elif change == 1:
            x = grey.mean() + (x - grey.mean()) * factors[1]
        elif change == 2:
            x = grey[..., None] + (x - grey[..., None]) * factors[2]
        else:
            hsv = cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + 360 * shift) % 360
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
        x = x.clip(0, 255).astype(np.float32)
    return x.round().astype(np.uint8)
