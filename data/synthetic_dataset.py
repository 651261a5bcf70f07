"""Drawn faces with labels and landmarks: everything can be tried without any data."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.base_dataset import BaseDataset

# Every split draws from its own stretch of numbers, so --synthetic_size moves no other split.
MAX_PEOPLE = 1_000_000
NUM_TEST_PEOPLE = 100


class SyntheticDataset(BaseDataset):
    """Seeded procedural faces; the number of a person determines the whole image.

    The people do not depend on --seed, so that runs with different seeds can be compared. The
    held-out ones differ from those of the training set, those of `test` from both.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDataset.Settings):
        """How many people there are.

        Attributes:
            synthetic_size: number of people to train on.
            num_val_images: number of people to validate on.
        """
        synthetic_size: int = 10000
        num_val_images: int = 50

        def __post_init__(self) -> None:
            super().__post_init__()
            for name, low in (("synthetic_size", 1), ("num_val_images", 0)):
                count = getattr(self, name)
                if not low <= count <= MAX_PEOPLE:
                    raise ValueError(f"--{name} must be from {low} to {MAX_PEOPLE} people, got "
                                     f"{count}")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        if is_train:
            parser.add_argument("--synthetic_size", type=int, default=10000,
                                metavar="N", help="number of synthetic faces for training")

    def find_items(self) -> range:
        settings = self.settings
        return {"train": range(settings.synthetic_size),
                "val": range(MAX_PEOPLE, MAX_PEOPLE + settings.num_val_images),
                "test": range(2 * MAX_PEOPLE, 2 * MAX_PEOPLE + NUM_TEST_PEOPLE)}[self.split]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        from data.synthetic.faces import render_face
        number = self.items[index]
        face = render_face(number, size=self.settings.load_size)
        return {**self.pair(face.image, rng), "labels": face.labels,
                "landmarks": face.landmarks68, "path": f"face_{number:06d}"}
