"""Merge CelebAMask-HQ's masks of face parts into one label map per face."""
from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from data.labels import LABELS
from options.parser import positive_int
from preparation import _pictures
from utils.images.errors import ImageError
from utils.images.io import BadImage, list_images, read_image, warn_left_out, write_image

NAME = re.compile(r"(\d+)_(\w+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="DIR",
                        help="CelebAMask-HQ-mask-anno, with NUMBER_PART.png in its subfolders")
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="folder for NUMBER.png with gray levels 0 to 18; --model parse reads "
                             "DATAROOT/CelebAMask-HQ-mask")
    parser.add_argument("--workers", type=positive_int, default=2, help="parallel processes")


def run(opt: argparse.Namespace) -> int:
    """Write the map of every face that has none yet; 1 if some could not be made.

    Later parts in the order of data.labels.LABELS lie over earlier ones, as in switchablenorms/
    CelebAMask-HQ. Part masks carry the image's number with leading zeros, maps without.

    Raises:
        ValueError: no part masks, or a name that stands for no part.
    """
    faces: dict[int, dict[str, Path]] = defaultdict(dict)
    warn_left_out(opt.input)
    for path in list_images(opt.input):
        match = NAME.fullmatch(path.stem)
        if match is None or match[2] not in LABELS[1:]:
            raise ValueError(f"{path}: the name must be NUMBER_PART.png with PART one of "
                             f"{', '.join(LABELS[1:])}")
        faces[int(match[1])][match[2]] = path
    folder = Path(opt.output)
    waiting = [(folder / f"{number}.png", parts) for number, parts in sorted(faces.items())
               if not (folder / f"{number}.png").exists()]
    failed = [message for message in _pictures.spread(_merge_one, waiting, opt.workers, "face")
              if message]
    print(_pictures.written(len(waiting) - len(failed), "label map", len(faces) - len(waiting),
                            folder))
    return _pictures.conclude(failed)


def _merge_one(job: tuple[Path, dict[str, Path]]) -> str:
    target, parts = job
    try:
        write_image(target, merge(parts))
    except ImageError as error:     # both name the file
        return str(error)
    return ""


def merge(parts: dict[str, Path]) -> np.ndarray:
    """Label map (H, W) of one face's part masks, given by part.

    Raises:
        BadImage: a part mask that cannot be read or differs in size from the others.
    """
    labels = None
    for number, part in enumerate(LABELS):
        if part not in parts:
            continue
        mask = read_image(parts[part])[..., 0] > 0
        if labels is None:
            labels = np.zeros(mask.shape, np.uint8)
        if mask.shape != labels.shape:
            raise BadImage(f"{parts[part]}: the part has {mask.shape[1]}x{mask.shape[0]} pixels, "
                           f"other parts of this face have {labels.shape[1]}x{labels.shape[0]}")
        labels[mask] = number
    return labels
