"""Face crops with SPARNet's published augmentation."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from data.base_dataset import FileDataset
from utils.images.resize import bicubic, flip

AREA = (0.7, 1.0)
LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))      # width / height
MAX_SCALE = 1.3


class CelebADataset(FileDataset):
    """CelebA, or any folder of face crops: flipped, cropped and resized in training.

    The published training set was CelebA cropped around MTCNN boxes with a margin, faces above
    128 pixels, resized to 128 x 128; `img_align_celeba` (178 x 218, more background) is another
    distribution, so say which one a number was produced with.

    Source: SPARNet (arXiv 2012.01211), what its released augmentation code does in effect.
    """

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        gt = self.read(index)
        if self.split == "train":
            gt = augment(gt, rng)
        gt = bicubic(gt, self.settings.load_size, self.settings.load_size)
        return {**self.pair(gt, rng), "path": self.items[index]}


def augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip left-right half of the time, then cut out a random part; (H, W, 3) to (h, w, 3).

    The published code also draws a scale s from [1, 1.3], meant to upscale the image. It discards
    the upscaled one and crops the original; only when s is too small to add a column, about
    once in 50 images, does it crop nothing.
    """
    if rng.random() < 0.5:
        image = flip(image)
    width = image.shape[1]
    if int(width * rng.uniform(1.0, MAX_SCALE)) == width:
        return image
    top, left, height, width = random_box(*image.shape[:2], rng)
    return image[top:top + height, left:left + width]


def random_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height, width of a box of 0.7 to 1 times the area and a side ratio up to 4:3.

    Ten attempts to find one that fits, then the largest centered one of legal ratio.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(*LOG_RATIO))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    box_width = min(width, round(height * 4 / 3))
    box_height = min(height, round(width * 4 / 3))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
