"""Write where eyes and mouth are in each picture, out of 68 landmarks, for --model gfpgan.

    python prepare.py components --landmarks FILE --output PARTS.json

FILE is FFHQ's ffhq-dataset-v2.json; any JSON {NAME: [[x, y], ... 68 points]}, with --size saying
in pictures of which side; or the published FFHQ_eye_mouth_landmarks_512.pth, to be made plain.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.components import read_components, write_components
from utils.face_parts import REFERENCE, parts_of_landmarks

NUM_POINTS = 68


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--landmarks", required=True, metavar="FILE",
                        help="ffhq-dataset-v2.json, a JSON of 68 points by picture name, or the "
                             "published .pth")
    parser.add_argument("--output", required=True, metavar="FILE", help="component file to write")
    parser.add_argument("--size", type=int, default=None, metavar="PIXELS",
                        help="side of the pictures the points were measured in (default: what "
                             "FFHQ's file says, else 512)")


def run(opt: argparse.Namespace) -> int:
    """Write the component file; returns the exit status."""
    parts = convert(opt.landmarks, opt.size)
    write_components(opt.output, parts, REFERENCE)
    print(f"eyes and mouth of {len(parts)} pictures, in pixels of {REFERENCE}, in {opt.output}")
    return 0


def convert(path: str | Path, size: int | None = None) -> dict[str, Tensor]:
    """Parts (3, 3) by picture name, in pixels of 512.

    Raises:
        ValueError: unreadable, or points that are not 68 pairs of finite numbers; names
            --landmarks.
    """
    if Path(path).suffix in (".pth", ".pt"):
        return read_components(path)[0]
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--landmarks {path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"--landmarks {path} must hold points by picture name, got "
                         f"{type(content).__name__}")
    return dict(_entry(path, key, value, size) for key, value in content.items())


def _entry(path: str | Path, key: str, value: Any, size: int | None) -> tuple[str, Tensor]:
    name = key
    if isinstance(value, dict):     # FFHQ: numbered, with several sizes of each picture
        image = value.get("image", {})
        value, side = image.get("face_landmarks"), image.get("pixel_size", [1024])[0]
        name = Path(image.get("file_path", key)).name
        size = side if size is None else size
    try:
        points = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        points = torch.zeros(0)
    if points.shape != (NUM_POINTS, 2) or not torch.isfinite(points).all():
        raise ValueError(f"--landmarks {path}: {key} must have {NUM_POINTS} points x y, got "
                         f"{tuple(points.shape)}")
    return name, parts_of_landmarks(points * (REFERENCE / (size or REFERENCE)), REFERENCE)
