"""Any tree of images, with or without degraded counterparts."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.base_dataset import BaseDegradation, FileDataset, relative_names
from utils.images.image_list import is_list
from utils.images.io import read_image, root_of
from utils.images.resize import bicubic, flip


class FolderDataset(FileDataset):
    """Images resized to load_size x load_size, flipped half of the time in training.

    Raises:
        ValueError: images without counterpart; what FileDataset refuses.
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(FileDataset.Settings):
        """Where degraded images are, and whether training mirrors.

        Attributes:
            flip: flip left-right at random in training.
            lq_dataroot: folder of degraded images, of any size, named like those of `dataroot` up
                to the extension; None degrades the target.
        """
        flip: bool = True
        lq_dataroot: str | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.lq_dataroot and self.val_dataroot:
                raise ValueError("--lq_dataroot cannot be used with --val_dataroot; leave out "
                                 "--val_dataroot and hold pairs out with --num_val_images")

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        parser.add_argument("--lq_dataroot", metavar="DIR",
                            help="low-quality images with the names of those in --dataroot "
                                 "(default: made by --degradation)")
        if is_train:
            parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True,
                                help="flip images left to right at random")

    def __init__(self, settings: Settings, *, split: str = "train",
                 degrade: BaseDegradation | None = None):
        paired = settings.lq_dataroot
        super().__init__(settings, split=split, degrade=None if paired else degrade)
        self.lq_of = match_stems(settings.dataroot, paired) if paired else {}

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        name, size = self.items[index], self.settings.load_size
        gt = self.read(index)
        lq = read_image(self.lq_of[name]) if self.lq_of else None
        flipping = self.settings.flip and self.split == "train"
        if flipping and rng.random() < 0.5:
            gt, lq = flip(gt), None if lq is None else flip(lq)
        images = self.pair(bicubic(gt, size, size), rng)
        if lq is not None:
            images["lq"] = bicubic(lq, size, size)
        return {**images, "path": name}


def match_stems(folder: str | Path, lq_folder: str | Path,
                flags: tuple[str, str] = ("--dataroot", "--lq_dataroot")) -> dict[str, Path]:
    """Degraded file of each image of `folder`: same relative path but for the extension.

    Args:
        folder, lq_folder: folders, lists or packs. Where `folder` is a list, `lq_folder` may hold
            more.
        flags: the options that named the two folders, for the message.

    Raises:
        ValueError: an image without counterpart, on either side, or two of one name.
    """
    gt_names = _by_stem(folder, relative_names(folder))
    lq_names = _by_stem(lq_folder, relative_names(lq_folder))
    more = set() if is_list(folder) else lq_names.keys() - gt_names.keys()
    missing = [f"{len(stems)} only in {where} (such as {', '.join(sorted(stems)[:3])})"
               for where, stems in ((folder, gt_names.keys() - lq_names.keys()),
                                    (lq_folder, more)) if stems]
    if missing:
        raise ValueError(f"{flags[1]} and {flags[0]} must hold images of the same names, got "
                         f"{' and '.join(missing)}")
    lq_root = root_of(lq_folder)
    return {name: lq_root / lq_names[stem] for stem, name in gt_names.items()}


def _by_stem(folder: str | Path, names: Sequence[str]) -> dict[str, str]:
    by_stem: dict[str, str] = {}
    for name in names:
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if stem in by_stem:
            raise ValueError(f"images in {folder} must differ in more than their extension to be "
                             f"paired by name, got {by_stem[stem]} and {name}")
        by_stem[stem] = name
    return by_stem
