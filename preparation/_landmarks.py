"""Eyes and mouth of aligned faces, from the heat-maps of a landmark network."""
from __future__ import annotations

import torch
from torch import Tensor

from utils.face_parts import PARTS, POINTS, REFERENCE, TEMPLATE, parts_of_landmarks

# How far from where the alignment puts a part its points are looked for, in pixels of 512: half the
# distance of the eyes, which the small network takes for each other; for the mouth twice its half.
REACH = {"left_eye": 62, "right_eye": 62, "mouth": 112}


def parts_of_maps(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Parts (B, 3, 3) in pixels of 512, and how sure each image's are, (B,): the mean peak.

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
        found, score = _centers(maps[:, at].masked_fill(~inside, 0), rows, columns)
        points[:, at] = found
        scores.append(score)
    return parts_of_landmarks(points, REFERENCE), torch.cat(scores, dim=1).mean(dim=1)


def _centers(maps: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
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
