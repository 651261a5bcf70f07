"""Any landmark network of a file, as a function from faces to heat-maps."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine import checkpoint
from models.networks import fan
from models.networks.pretrained import fan_teacher

STUDENT_SIZE, TEACHER_SIZE = 64, 256      # sides of the images they were trained with

Maps = Callable[[Tensor], Tensor]


def landmark_maps(path: str | Path, device: torch.device, flag: str) -> tuple[Maps, int]:
    """A network from RGB (B, 3, side, side) in [0, 1] to heat-maps (B, 68, h, w), and the side.

    Args:
        path: PFSRNet's landmark network of any width, or 2DFAN-4.
        flag: the option that named the file, for errors.

    Raises:
        FileNotFoundError, ValueError: no such file, or of another network.
    """
    try:
        with checkpoint.named_by(flag):
            state = checkpoint.unwrap(checkpoint.read(path), path)
    except ValueError:      # a pickled student: its own loader says what to do
        state = {}
    if "m0.b1_4.bn1.weight" in state:
        teacher = fan_teacher.teacher_network(path, flag).to(device)
        return lambda x: teacher(x)[-1], TEACHER_SIZE
    return fan.landmark_network(path, flag).to(device), STUDENT_SIZE
