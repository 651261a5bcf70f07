"""A trial of a detector on drawn faces, whose places and points are known.

Weight files of several projects have the same names and shapes, but not the same anchors: what is
made of their numbers shows on a face only.
"""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.synthetic.faces import render_face
from faces.face import Face
from utils.files import sha256
from utils.text import counted

# SHA-256 of files that need no trial.
KNOWN_FILES = (
    # RetinaFace: facexlib's detection_Resnet50_Final.pth, the same as GPEN's RetinaFace-R50.pth,
    # and Pytorch_Retinaface's mobilenet0.25_Final.pth
    "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
    # YuNet: opencv_zoo's face_detection_yunet_2023mar.onnx
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4")

# Number of the person, side of the portrait, its left and top on the sheet, in pixels. With red and
# blue swapped, the published networks doubt the small ones.
PORTRAITS = ((8, 128, 0, 0), (24, 64, 128, 0), (53, 64, 128, 64))
MIN_FOUND = 2           # one portrait may be strange to a network
MIN_SCORE = 0.5         # the network thinks that it is a face
MIN_OVERLAP = 0.5       # intersection over union; anchors half as large give 0.25
MAX_ERROR = 0.2         # of the points, in distances of the eyes; such anchors give 0.3 and more


class Sheet(NamedTuple):
    """Drawn portraits side by side.

    Attributes:
        image: uint8 RGB (H, W, 3).
        boxes: (N, 4) corners x1, y1, x2, y2 in pixels, from the forehead to the chin.
        points: (N, 5, 2) as in `Face`, in pixels.
    """
    image: np.ndarray
    boxes: np.ndarray
    points: np.ndarray


class Outcome(NamedTuple):
    """What a detector made of the sheet.

    Attributes:
        found: how many of the drawn faces it found.
        others: how many faces it found elsewhere, or of another size.
        score: mean score of the drawn faces found, 0 without any.
    """
    found: int
    others: int
    score: float

    @property
    def passed(self) -> bool:
        return self.found >= max(MIN_FOUND, self.others)


@lru_cache(maxsize=1)
def sheet() -> Sheet:
    """The drawn faces, 128 x 192 pixels, the same on every call."""
    image = np.zeros((128, 192, 3), np.uint8)
    boxes, points = [], []
    for person, side, left, top in PORTRAITS:
        # All are drawn in one size, because the first one of each size takes ten times as long.
        face, scale = render_face(person, size=128), side / 128
        image[top:top + side, left:left + side] = cv2.resize(face.image, (side, side),
                                                             interpolation=cv2.INTER_AREA)
        low, high = face.landmarks68.min(axis=0), face.landmarks68.max(axis=0)
        low[1] -= 0.3 * (high[1] - low[1])      # the landmarks begin at the eyebrows
        boxes.append(np.concatenate([low, high]) * scale + [left, top, left, top])
        points.append(face.landmarks5 * scale + [left, top])
    return Sheet(image, np.array(boxes), np.array(points))


def compare(faces: list[Face]) -> Outcome:
    """How well faces found on the sheet's image fit the drawn ones.

    Args:
        faces: in any order, each found once.
    """
    drawn, scores = sheet(), {}
    for face in faces:
        best = int(np.argmax([_overlap(face.box, box) for box in drawn.boxes]))
        eyes = np.linalg.norm(drawn.points[best, 1] - drawn.points[best, 0])
        error = np.linalg.norm(face.points - drawn.points[best], axis=1).mean() / eyes
        if _overlap(face.box, drawn.boxes[best]) > MIN_OVERLAP and error < MAX_ERROR:
            scores[best] = max(scores.get(best, 0.0), face.score)
    return Outcome(len(scores), len(faces) - len(scores),
                   float(np.mean(list(scores.values()))) if scores else 0.0)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    shared = np.prod((np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(min=0))
    return float(shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared))


def needed(path: str | Path) -> bool:
    """Whether the file is none that is known."""
    return sha256(path) not in KNOWN_FILES


def refusal(path: str | Path, network: str, outcome: Outcome) -> str:
    """The message on a file that did not pass.

    Args:
        network: its name.
        outcome: of its best attempt.
    """
    return (f"--detector_weights {path}: expected a {network} that finds at least {MIN_FOUND} of "
            f"{len(PORTRAITS)} drawn faces, got {outcome.found} found and "
            f"{counted(outcome.others, 'detection')} elsewhere")
