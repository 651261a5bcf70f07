"""Inpainting: the input is the target with white brush strokes on it."""
from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from data.base_dataset import BaseDegradation, draw_int

MEAN_ANGLE, ANGLE_SPREAD = 2 * math.pi / 5, 2 * math.pi / 15
VERTICES = (8, 27)
FULL_SIZE = 1024        # side of the images that widths are given for
WHITE = (255, 255, 255)


class InpaintingDegradation(BaseDegradation):
    """Zigzag strokes of random length and width; no mask is passed on.

    Source: GPEN (arXiv 2105.06070); the strokes are those of DeepFill v2 (arXiv 1806.03589).
    """

    @dataclass(frozen=True, kw_only=True)
    class Settings(BaseDegradation.Settings):
        """The strokes; each range is (low, high), both included.

        Attributes:
            num_strokes: per image.
            stroke_width: pixels of an image of 1024; smaller ones get thinner strokes.
        """
        num_strokes: Sequence[int] = (1, 3)
        stroke_width: Sequence[int] = (12, 79)

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_range("num_strokes", 0)
            self.check_range("stroke_width", 1)

    settings: Settings

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        for name, default, text in (("num_strokes", [1, 3], "brush strokes per image"),
                                    ("stroke_width", [12, 79], "width of a stroke in an image "
                                                               "of 1024 pixels, in pixels")):
            parser.add_argument(f"--{name}", type=int, nargs=2, default=default,
                                metavar=("LOW", "HIGH"), help=text)

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lq = np.ascontiguousarray(gt).copy()
        for _ in range(draw_int(self.settings.num_strokes, rng)):
            width = draw_int(self.settings.stroke_width, rng)
            paint(lq, zigzag(lq.shape[:2], rng), round(width * min(gt.shape[:2]) / FULL_SIZE))
        return lq


def zigzag(shape: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Vertices (x, y) of a stroke in an image of shape (height, width), cut off at its border."""
    height, width = shape
    low = MEAN_ANGLE - rng.uniform(0, ANGLE_SPREAD)
    high = MEAN_ANGLE + rng.uniform(0, ANGLE_SPREAD)
    mean = math.hypot(height, width) / 8
    x, y = int(rng.integers(width)), int(rng.integers(height))
    points = [(x, y)]
    for index in range(rng.integers(VERTICES[0], VERTICES[1] + 1)):
        angle = rng.uniform(low, high)
        angle = 2 * math.pi - angle if index % 2 == 0 else angle
        radius = np.clip(rng.normal(mean, mean // 2), 0, 2 * mean)
        x = int(np.clip(x + radius * math.cos(angle), 0, width - 1))
        y = int(np.clip(y + radius * math.sin(angle), 0, height - 1))
        points.append((x, y))
    return points


def paint(image: np.ndarray, points: Sequence[tuple[int, int]], width: int) -> None:
    """Draw a stroke with round joints, in place; a pixel wide or more."""
    for start, end in pairwise(points):
        cv2.line(image, start, end, WHITE, max(1, width))
    for point in points:
        cv2.circle(image, point, width // 2, WHITE, -1)
