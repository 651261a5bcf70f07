"""Drawn faces with labels and landmarks: everything can be tried without any data."""
from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from data.base_dataset import BaseDataset, BaseDegradation

# Every split draws from its own stretch of numbers, so --synthetic_size moves no other split.
MAX_PEOPLE = 1_000_000
NUM_TEST_PEOPLE = 100


class SyntheticDataset(BaseDataset):
    """Seeded procedural faces; the number of a person decides everything about the picture.

    The people do not depend on --seed, so that runs with different seeds can be compared. The
    held-out ones differ from those of the training set, those of `test` from both.

    Args:
        synthetic_size: number of people to train on.
        num_val_images: number of people to validate on.

    Raises:
        ValueError: a number of people out of range; what BaseDataset refuses.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--synthetic_size", type=int, default=10000,
                                help="number of different people drawn for training")

    def __init__(self, *, split: str = "train", seed: int = 0, load_size: int = 128,
                 degrade: BaseDegradation | None = None, max_dataset_size: float | None = None,
                 num_val_images: int = 50, synthetic_size: int = 10000):
        for flag, count, low in (("--synthetic_size", synthetic_size, 1),
                                 ("--num_val_images", num_val_images, 0)):
            if not low <= count <= MAX_PEOPLE:
                raise ValueError(f"{flag} must be from {low} to {MAX_PEOPLE} people, got {count}")
        people = {"train": range(synthetic_size),
                  "val": range(MAX_PEOPLE, MAX_PEOPLE + num_val_images),
                  "test": range(2 * MAX_PEOPLE, 2 * MAX_PEOPLE + NUM_TEST_PEOPLE)}
        super().__init__(items=people.get(split, ()), split=split, seed=seed, load_size=load_size,
                         degrade=degrade, max_dataset_size=max_dataset_size)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        from data.synthetic.faces import render_face
        person = self.items[index]
        face = render_face(person, size=self.load_size)
        return {**self.pair(face.image, rng), "labels": face.labels,
                "landmarks": face.landmarks68, "path": f"face_{person:06d}"}
