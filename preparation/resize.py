"""Bring images to one size once, so that training need not do it every epoch."""
from __future__ import annotations

import argparse
from functools import partial

import numpy as np

from options.parser import positive_int
from preparation import _pictures
from utils.images.resize import bicubic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _pictures.add_arguments(parser, "pictures")
    parser.add_argument("--size", type=positive_int, required=True,
                        help="side of the results, in pixels; the aspect ratio is not kept")


def run(opt: argparse.Namespace) -> int:
    """Resize every image that has no result yet with Pillow's bicubic filter, as the data sets
    do."""
    return _pictures.convert(opt, partial(to_square, size=opt.size))


def to_square(image: np.ndarray, size: int) -> np.ndarray:
    """The image as (size, size, 3)."""
    return bicubic(image, size, size)
