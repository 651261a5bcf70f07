"""Resize images once, instead of in every epoch of training."""
from __future__ import annotations

import argparse
from functools import partial

import numpy as np

from options.parser import positive_int
from preparation import _pictures
from utils.images.resize import bicubic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _pictures.add_arguments(parser, "images")
    parser.add_argument("--size", type=positive_int, required=True, metavar="PIXELS",
                        help="side of the square results; the aspect ratio is not kept")


def run(opt: argparse.Namespace) -> int:
    """Resize every image that has no result yet with Pillow's bicubic filter, as the data sets
    do."""
    return _pictures.convert(opt, partial(to_square, size=opt.size))


def to_square(image: np.ndarray, size: int) -> np.ndarray:
    """The image as (size, size, 3)."""
    return bicubic(image, size, size)
