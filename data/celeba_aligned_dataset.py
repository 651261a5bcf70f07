"""CelebA's aligned images as PFSRNet was trained and evaluated on them."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.base_dataset import FileDataset
from utils.images.image_list import is_list
from utils.images.resize import CELEBA_CROP, bilinear, center_crop, flip

PARTITION = "list_eval_partition.txt"
PARTS = {"train": "0", "val": "1", "test": "2"}
# Folders above the images and below those, where the official split is looked for. It ships in
# Eval; the published code reads Anno.
PLACES = (".", "Eval", "Anno")
MAX_ROTATION = 20.0     # degrees
JITTER, MAX_HUE = 0.4, 0.1


class CelebAAlignedDataset(FileDataset):
    """Center crops of 178 x 178, reduced by Pillow's bilinear filter.

    Where `list_eval_partition.txt` lies beside the images or above them, in a folder `Eval` or
    `Anno` too, the official split is used; otherwise images are held out as everywhere. An
    image smaller than 178 pixels gives the largest square from its middle.

    Source: DeokyunKim/Progressive-Face-Super-Resolution, dataloader.py.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(FileDataset.Settings):
        """`data_augment`: in training flip, rotate and change colors at random."""
        data_augment: bool = False

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--data_augment", action=argparse.BooleanOptionalAction,
                                default=False,
                                help="flip, rotate by up to 20 degrees and change colors at "
                                     "random")

    def names_of_split(self, names: list[str]) -> list[str]:
        settings = self.settings
        partition = None if is_list(settings.dataroot) else find_partition(self.root)
        if partition is None or settings.val_dataroot:
            return super().names_of_split(names)
        part = part_names(partition, PARTS[self.split])
        if self.split == "val":
            part = part[:settings.num_val_images]
        there = set(names)
        found = [name for name in sorted(part) if name in there]
        if part and not found:
            raise ValueError(f"{partition} must name images of {self.root}, got {part[0]} and "
                             "others that are not there")
        return found

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image, size = self.read(index), self.settings.load_size
        augmented = self.settings.data_augment and self.split == "train"
        gt = center_crop(image, min(CELEBA_CROP, *image.shape[:2]))
        if augmented and rng.random() < 0.5:
            gt = flip(gt)
        gt = bilinear(gt, size, size)
        if augmented:
            gt = change_colors(rotated(gt, rng.uniform(-MAX_ROTATION, MAX_ROTATION)), rng)
        return {**self.pair(gt, rng), "path": self.items[index]}


def find_partition(folder: Path) -> Path | None:
    """The official split's file for images in a folder, if there is one."""
    for above in (folder, *folder.resolve().parents[:2]):
        for place in PLACES:
            if (found := above / place / PARTITION).is_file():
                return found
    return None


def part_names(path: Path, part: str) -> list[str]:
    """Names of the images in a part of the split, "0", "1" or "2", in the file's order.

    Raises:
        ValueError: a line that is not a name and a number.
    """
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in PARTS.values():
            raise ValueError(f"{path}, line {number} must be a name and 0, 1 or 2, got {line!r}")
        if fields[1] == part:
            names.append(fields[0])
    return names


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned about its center; corners are filled by reflection, where the published code leaves
    them black and the network learns to draw black corners."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REFLECT_101)


def change_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation by factors of 0.6 to 1.4 and hue by up to a tenth of the
    circle, in random order."""
    factors = rng.uniform(1 - JITTER, 1 + JITTER, 3)
    shift = rng.uniform(-MAX_HUE, MAX_HUE)
    x = image.astype(np.float32)
    for change in rng.permutation(4):
        gray = x @ np.array([0.299, 0.587, 0.114], np.float32)
        if change == 0:
            x = x * factors[0]
        elif change == 1:
            x = gray.mean() + (x - gray.mean()) * factors[1]
        elif change == 2:
            x = gray[..., None] + (x - gray[..., None]) * factors[2]
        else:
            hsv = cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + 360 * shift) % 360
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
        x = x.clip(0, 255).astype(np.float32)
    return x.round().astype(np.uint8)
