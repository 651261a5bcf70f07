"""What all datasets have in common: reproducible samples, held-out images, unreadable files."""
from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data.settings import BaseSettings
from utils.images.io import BadImage, list_images, read_image, root_of, warn_left_out

SPLITS = ("train", "val", "test")
MAX_DRAWS = 10
logger = logging.getLogger("facezoo")


class BaseDegradation:
    """Makes the degraded image from the target.

    Args:
        settings: an object of this class's own `Settings`; None takes their defaults.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseSettings):
        """Settings of a degradation; one with flags adds them in a subclass."""

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        """Add the flags of this degradation, one for each field of its `Settings`."""

    def __init__(self, settings: Settings | None = None):
        self.settings = self.Settings() if settings is None else settings

    def check(self, load_size: int) -> None:
        """Raise ValueError if targets of this size cannot be degraded."""

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Degraded copy of a uint8 (H, W, 3) array, of the same shape or smaller; chance comes from
        `rng`."""
        raise NotImplementedError

    def degrade(self, gt: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """The degraded image, and whether it was turned gray on purpose."""
        return self(gt, rng), False


def draw_int(bounds: Sequence[int], rng: np.random.Generator) -> int:
    """A random integer from low to high, both included."""
    return int(rng.integers(bounds[0], bounds[1] + 1))


class BaseDataset(Dataset):
    """A sequence of items of which each gives a sample that depends on (seed, epoch, index) only.

    A dataset is one file with one subclass, which implements `find_items` and `sample`.

    Args:
        settings: an object of this class's own `Settings`.
        split: `train`, `val` or `test`.
        degrade: makes `lq`; None leaves it out.

    Raises:
        ValueError: no such split, or `load_size` does not suit the degradation.
    """
    has_targets = True      # whether samples hold `gt`; if not, there is nothing to degrade

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseSettings):
        """Settings of every dataset; one with flags of its own adds them in a subclass.

        Attributes:
            seed: of all chance in the samples.
            load_size: side of the square images, in pixels.
            max_dataset_size: use only the first so many items; None uses all.
        """
        seed: int = 0
        load_size: int = 128
        max_dataset_size: int | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("load_size", "max_dataset_size"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise ValueError(f"--{name} must be at least 1, got {value}")

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        """Add the flags of this dataset, one for each field that its `Settings` add."""

    def __init__(self, settings: Settings, *, split: str = "train",
                 degrade: BaseDegradation | None = None):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if degrade is not None:
            degrade.check(settings.load_size)
        self.settings, self.split, self.degrade = settings, split, degrade
        self.items = self.find_items()[:settings.max_dataset_size]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Sample of an index or an (epoch, index) pair, as `sample` describes it, plus `bad`.

        `bad` lists the unreadable files. Training then draws another index, a few
        times; the other splits, or too many failures, give a dict with nothing but `bad`.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng([self.settings.seed, epoch, index])
        bad: list[str] = []
        for _ in range(MAX_DRAWS if self.split == "train" else 1):
            try:
                return {**self.sample(index, rng), "bad": bad}
            except BadImage as error:
                bad.append(str(error))
                index = int(rng.integers(len(self)))
        return {"bad": bad}

    def find_items(self) -> Sequence[Any]:
        """What `sample` turns into images, for the split: file names, numbers, ...

        Raises:
            ValueError: there are none, or the settings are wrong.
        """
        raise NotImplementedError

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One sample; all its chance comes from `rng`.

        Returns:
            `gt` and/or `lq`: uint8 (load_size, load_size, 3), `lq` perhaps smaller; `path`: name
            relative to the root; where known, `labels`: uint8 (load_size,
            load_size), `landmarks`: float32 (N, 2).

        Raises:
            BadImage: the item's file cannot be used.
        """
        raise NotImplementedError

    def pair(self, gt: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`gt` and the `lq` made from it."""
        return {"gt": gt} if self.degrade is None else {"gt": gt, "lq": self.degrade(gt, rng)}


class FileDataset(BaseDataset):
    """Images of a folder and its subfolders, a few of them held out for validation.

    Raises:
        ValueError: the folder is missing or holds no images; what BaseDataset refuses.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDataset.Settings):
        """Where the images are, and which of them validate.

        Attributes:
            dataroot: the folder, a list or a pack of images (see `utils.images.io.list_images`).
                `test` takes all of it, `train` what is not held out.
            num_val_images: how many to hold out; see `hold_out`.
            val_dataroot: validate on all images of this folder instead of holding any out.
        """
        dataroot: str
        num_val_images: int = 50
        val_dataroot: str | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.dataroot:
                raise ValueError("--dataroot is missing: give a folder of images")
            if self.num_val_images < 0:
                raise ValueError(f"--num_val_images must not be negative, got "
                                 f"{self.num_val_images}")

    settings: Settings

    def find_items(self) -> list[str]:
        source = self.source()
        try:
            self.root, names = root_of(source), relative_names(source)
        except ValueError as error:
            own = self.split == "val" and self.settings.val_dataroot
            raise ValueError(f"--{'val_' if own else ''}dataroot {error}") from error
        warn_left_out(source)
        return self.names_of_split(names)

    def source(self) -> str:
        """The folder, list or pack that the images of the split are taken from."""
        validation = self.settings.val_dataroot if self.split == "val" else None
        return self.images_of(validation or self.settings.dataroot)

    @staticmethod
    def images_of(dataroot: str) -> str:
        """Folder of a --dataroot's images; datasets with a published layout override it."""
        return dataroot

    def names_of_split(self, names: list[str]) -> list[str]:
        """Those of the source's names that belong to the split."""
        if self.split == "test" or self.settings.val_dataroot:
            return names
        held_out = hold_out(names, self.settings.num_val_images)
        return [name for name in names if (name in held_out) == (self.split == "val")]

    def read(self, index: int) -> np.ndarray:
        """Image of an item, uint8 (H, W, 3), as stored on disk."""
        return read_image(self.root / self.items[index])


class BadImageCounter:
    """Counts the distinct unreadable files; too many of them end the run.

    Args:
        limit_fraction: --max_bad_images, the fraction of the dataset that may be unreadable.
        dataset_size: number of items.
    """

    def __init__(self, limit_fraction: float, dataset_size: int):
        if not 0 <= limit_fraction <= 1:
            raise ValueError(f"--max_bad_images must be from 0 to 1, got {limit_fraction}")
        self.limit_fraction, self.dataset_size = limit_fraction, dataset_size
        self.messages: dict[str, None] = {}     # an ordered set

    def __len__(self) -> int:
        return len(self.messages)

    def add(self, messages: Sequence[str]) -> None:
        """Add the `bad` list of a batch; each file is logged once.

        Raises:
            ValueError: more than the allowed fraction is unreadable.
        """
        for message in messages:
            if message not in self.messages:
                self.messages[message] = None
                logger.warning("skipping an unreadable image: %s", message)
        if len(self) > self.limit_fraction * self.dataset_size:
            first = "; ".join(list(self.messages)[:3])
            raise ValueError(f"--max_bad_images allows {self.limit_fraction:.3%} unreadable images "
                             f"of {self.dataset_size}, got {len(self)} so far: {first}")


def relative_names(folder: str | Path) -> list[str]:
    """Names of the images below a folder, relative to it, with forward slashes, sorted.

    Args:
        folder: or a list or pack; the names of a list begin at the folder it notes.

    Raises:
        ValueError: see `utils.images.io.list_images`.
    """
    root = root_of(folder)
    return [path.relative_to(root).as_posix() for path in list_images(folder)]


def hold_out(names: Sequence[str], count: int) -> set[str]:
    """The names kept for validation: those with the smallest CRC-32.

    The choice depends on the names only, not on their order. At most a tenth is taken, but
    at least one where there are two or more; a count of 0 takes none.
    """
    if len(names) < 2 or count == 0:
        return set()
    ranked = sorted(names, key=lambda name: (checksum(name), name))
    return set(ranked[:min(count, max(1, len(names) // 10))])


def checksum(name: str) -> int:
    """CRC-32 of a name; file names need not be UTF-8."""
    return zlib.crc32(name.encode(errors="surrogateescape"))


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples: arrays to tensors of the same type, `path` and `bad` to lists.

    Images stay uint8 (B, H, W, 3); the device turns them into floats. Samples without an image
    are dropped, so the batch may be smaller, or hold nothing but `path` and `bad`.
    """
    batch: dict[str, Any] = {"path": [], "bad": [text for each in samples for text in each["bad"]]}
    whole = [each for each in samples if "path" in each]
    for key in whole[0] if whole else ():
        if key == "path":
            batch[key] = [each[key] for each in whole]
        elif key != "bad":
            batch[key] = torch.from_numpy(np.stack([each[key] for each in whole]))
    return batch
