"""Eyes and mouth of aligned faces, seen by a landmark network."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from models.networks import fan, fan_teacher
from utils import checkpoint
from utils.face_parts import PARTS, POINTS, REFERENCE, TEMPLATE, parts_of_landmarks

# Sides at which aligned faces are seen best: the student was trained at 64, 2DFAN-4 at 256.
STUDENT_SIZE, TEACHER_SIZE = 64, 256
# How far from where the alignment puts a part its points are looked for, in pixels of 512: half the
# distance of the eyes, which the small network takes for each other; for the mouth twice its half.
REACH = {"left_eye": 62, "right_eye": 62, "mouth": 112}

Maps = Callable[[Tensor], Tensor]


def landmark_maps(path: str | Path, device: torch.device, flag: str = "--weights"
                  ) -> tuple[Maps, int]:
    """A network from RGB (B, 3, side, side) in [0, 1] to heat-maps (B, 68, h, w), and the side.

    Raises:
        FileNotFoundError, ValueError: no such file, or neither PFSRNet's landmark network nor
            2DFAN-4.
    """
    try:
        with checkpoint.named_by(flag):
            state = checkpoint.unwrap(checkpoint.read(path), path)
    except ValueError:      # a pickled student: its own loader says what to do
        state = {}
    if "m0.b1_4.bn1.weight" in state:
        teacher = fan_teacher.teacher_network(path, flag).to(device)
        return lambda x: teacher(x)[-1], TEACHER_SIZE
    first = state.get("conv.bias")
    width = fan.PUBLISHED_WIDTH if first is None else fan.WIDTH_MULTIPLE * len(first)
    return fan.landmark_network(path, flag, width).to(device), STUDENT_SIZE


def parts_of_maps(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Parts (B, 3, 3) in pixels of 512, and how sure each picture's are, (B,): the mean peak.

    Args:
        maps: (B, 68, h, w) of faces aligned as FFHQ's are.
    """
    maps = maps.double().cpu()
    height, width = maps.shape[2:]
    rows, columns = (((torch.arange(side) + 0.5) * (REFERENCE / side)).double()
                     for side in (height, width))
    points = maps.new_zeros(len(maps), maps.shape[1], 2)
    scores = []
    for part, (x, y, _) in zip(PARTS, TEMPLATE, strict=True):
        reach, at = REACH[part], POINTS[part]
        inside = ((rows - y).abs() <= reach)[:, None] & ((columns - x).abs() <= reach)
        found, score = _centres(maps[:, at].masked_fill(~inside, 0), rows, columns)
        points[:, at] = found
        scores.append(score)
    return parts_of_landmarks(points, REFERENCE), torch.cat(scores, dim=1).mean(dim=1)


def _centres(maps: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Where each map is highest, as the mean of the 3 x 3 pixels around weighed by it; and how
    high."""
    score, flat = maps.flatten(2).max(dim=2)
    width = maps.shape[3]
    top, left = (flat // width)[..., None, None], (flat % width)[..., None, None]
    near = (((torch.arange(maps.shape[2])[:, None] - top).abs() <= 1)
            & ((torch.arange(width) - left).abs() <= 1))
    weight = maps.clamp_min(0) * near
    total = weight.sum(dim=(2, 3)).clamp_min(1e-12)
    x = (weight * columns).sum(dim=(2, 3)) / total
    y = (weight * rows[:, None]).sum(dim=(2, 3)) / total
    return torch.stack([x, y], dim=-1), score
