"""Crop the center of images, as CelebA's aligned faces are cropped to 178 x 178."""
from __future__ import annotations

import argparse
from functools import partial

import numpy as np

from options.parser import positive_int
from preparation import _pictures
from utils.images.resize import bicubic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _pictures.add_arguments(parser, "images")
    parser.add_argument("--size", type=positive_int, default=178, metavar="PIXELS",
                        help="side of the square to crop")
    parser.add_argument("--resize", type=positive_int, metavar="PIXELS",
                        help="then resize it to this side")


def run(opt: argparse.Namespace) -> int:
    """Crop every image that has no result yet; smaller ones are reported."""
    return _pictures.convert(opt, partial(center_crop, size=opt.size, resize=opt.resize))


def center_crop(image: np.ndarray, size: int, resize: int | None = None) -> np.ndarray:
    """The middle (size, size, 3) of an image, offsets rounded half to even, as published.

    Raises:
        ValueError: a side is shorter.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(f"the image must have {size}x{size} pixels (--size) or more, got "
                         f"{width}x{height}")
    top, left = round((height - size) / 2), round((width - size) / 2)
    cut = np.ascontiguousarray(image[top:top + size, left:left + size])
    return cut if resize is None else bicubic(cut, resize, resize)
