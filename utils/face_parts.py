"""Where eyes and mouth are in a face, as boxes around them.

A part is (center x, center y, half length) in pixels; three of them, in the order of PARTS, make
(..., 3, 3). "Left" is left in the image. Source: TencentARC/GFPGAN, parse_landmark.py and the
FFHQ degradation data set.
"""
from __future__ import annotations

import torch
from torch import Tensor

PARTS = ("left_eye", "right_eye", "mouth")
POINTS = {"left_eye": slice(36, 42), "right_eye": slice(42, 48), "mouth": slice(48, 68)}
# The published numbers are pixels of images of this side.
REFERENCE = 512
CROPS = {"left_eye": 80, "right_eye": 80, "mouth": 120}
MIN_HALF, MIN_CROP = 16, 8
EYE_ENLARGE = 1.4
# Faces aligned as FFHQ's are: eyes and mouth lie between their template's points; halves are this
# project's choice.
TEMPLATE = ((193.0, 240.0, 27.0), (318.9, 240.2, 27.0), (257.2, 371.3, 56.0))


def template_parts(size: int) -> Tensor:
    """(3, 3) for any FFHQ-aligned face, in an image of this side."""
    return torch.tensor(TEMPLATE) * (size / REFERENCE)


def parts_of_landmarks(landmarks: Tensor, size: int) -> Tensor:
    """Parts (..., 3, 3) out of 68 points (..., 68, 2), x y in pixels of an image of this side.

    Half the longer extent of its points, at least 16 of 512 pixels; eyes are not enlarged yet.
    """
    found = []
    for name in PARTS:
        points = landmarks[..., POINTS[name], :]
        extent = (points.amax(-2) - points.amin(-2)).amax(-1, keepdim=True)
        half = (extent / 2).clamp_min(MIN_HALF * size / REFERENCE)
        found.append(torch.cat((points.mean(-2), half), dim=-1))
    return torch.stack(found, dim=-2)


def mirrored_parts(parts: Tensor, size: int) -> Tensor:
    """The parts of the mirrored image; as published, one pixel right of the exact mirror."""
    flipped = parts[..., [1, 0, 2], :]     # a copy
    flipped[..., 0] = size - flipped[..., 0]
    return flipped


def boxes_of_parts(parts: Tensor, eye_enlarge: float = EYE_ENLARGE) -> Tensor:
    """Boxes (..., 3, 4), x1 y1 x2 y2, float32; eyes enlarged."""
    factor = parts.new_tensor((eye_enlarge, eye_enlarge, 1.0))
    center, half = parts[..., :2], (parts[..., 2] * factor)[..., None]
    return torch.cat((center - half + 1, center + half), dim=-1).float()


def crop_size(part: str, size: int) -> int:
    """Side of a part's crop: 80 (eyes) or 120 (mouth) of 512 pixels, so that D can halve it."""
    return max(MIN_CROP, round(CROPS[part] * size / REFERENCE))
