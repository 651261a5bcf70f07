"""Store a folder's decoded images in a few large files, for slow storage.

    python prepare.py pack --input FACES --output PACKED
    python prepare.py pack --input FFHQ/imgs1024 --output PACKED --size 512

PACKED then stands for FACES, e.g. as --dataroot. The format is described in utils/images/pack.py.
"""
from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from data.celeba_aligned_dataset import PARTITION, find_partition
from options.parser import positive_int
from preparation import _pictures
from utils.images.image_list import is_list
from utils.images.io import BadImage, find_images, read_image, shown, warn_left_out
from utils.images.pack import stamp_or_none, write_pack
from utils.images.resize import bicubic

MIB = 1 << 20
FILTERS = {"bicubic": None, "area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="PATH",
                        help="images: a folder (including subfolders), a list or a quoted pattern")
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="folder of the pack; a stopped run continues from there")
    parser.add_argument("--size", type=positive_int, metavar="PIXELS",
                        help="resize the images to the --load_size of training; not for datasets "
                             "that crop first (celeba, celeba_aligned)")
    parser.add_argument("--filter", choices=tuple(FILTERS), default="bicubic",
                        help="how --size resizes: bicubic for most datasets, area for gpen, "
                             "nearest for label maps")
    parser.add_argument("--shard_size", type=positive_int, default=1024, metavar="MIB",
                        help="size of one file of the pack; a run that is killed loses at most "
                             "this much").rare = True
    parser.add_argument("--workers", type=positive_int, default=2, help="parallel processes")


def run(opt: argparse.Namespace) -> int:
    """Pack every image that is not packed yet, or has changed since; 1 if some cannot be read.

    Those are kept by name, so that the pack has the folder's names and the same are held out.

    Raises:
        ValueError: no images, or an output that cannot be completed.
    """
    root, paths = find_images(opt.input)
    warn_left_out(opt.input)
    folder = Path(opt.output)
    if folder.resolve() == root.resolve():
        raise ValueError(f"--output must be another folder than --input, got {folder} for both")
    # A link that leads nowhere has no stamp; it is named with the unreadable ones.
    sources = {path.relative_to(root).as_posix(): tuple(stamp_or_none(path) or (0, 0))
               for path in paths}
    settings = {"size": opt.size, "filter": opt.filter if opt.size else None}

    def decode(names: list[str]) -> Iterator[tuple[str, np.ndarray | str]]:
        task = partial(_decode_one, root, opt.size, opt.filter)
        yield from zip(names, _pictures.spread(task, names, opt.workers), strict=True)
    packed, bad = write_pack(folder, sources, settings, decode, opt.shard_size * MIB)
    # A list is a choice itself, for which CelebA's own does not hold.
    if not is_list(opt.input) and (partition := find_partition(root)) is not None:
        shutil.copyfile(partition, folder / PARTITION)
    print(_pictures.written(packed, "image", len(sources) - packed - len(bad), folder))
    return _pictures.conclude([f"{shown(root / name)}: {reason}" for name, reason in bad.items()])


def resize(image: np.ndarray, size: int | None, how: str) -> np.ndarray:
    """An image as (size, size, 3), by one of FILTERS, or as it is."""
    if size is None:
        return image
    if how == "bicubic":
        return bicubic(image, size, size)
    return cv2.resize(image, (size, size), interpolation=FILTERS[how])


def _decode_one(root: Path, size: int | None, how: str, name: str) -> np.ndarray | str:
    path = root / name
    try:
        return resize(read_image(path), size, how)
    except BadImage as error:
        return str(error).removeprefix(f"{shown(path)}: ")
