"""2DFAN-4, the stacked hourglass network that PFSRNet's landmark network is distilled from.

Source: Bulat and Tzimiropoulos, arXiv 1703.07332; 1adrianb/face-alignment, weights
`2DFAN4-11f355bf06.pth.tar`.
"""
from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint

NUM_LANDMARKS = 68
WIDTH = 256
SIZE_MULTIPLE = 64      # the stem divides by 4, the hourglass by 16


class Block(nn.Module):
    """Three convolutions in a row, their results joined, and the input added."""

    # Names here and below follow the released checkpoint.
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        plan = (in_channels, out_channels // 2, out_channels // 4, out_channels // 4)
        for index, (inside, outside) in enumerate(pairwise(plan), 1):
            setattr(self, f"bn{index}", nn.BatchNorm2d(inside))
            setattr(self, f"conv{index}", nn.Conv2d(inside, outside, 3, padding=1, bias=False))
        self.downsample = None if in_channels == out_channels else nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        found, h = [], x
        for index in (1, 2, 3):
            h = getattr(self, f"conv{index}")(F.relu(getattr(self, f"bn{index}")(h)))
            found.append(h)
        return torch.cat(found, dim=1) + (x if self.downsample is None else self.downsample(x))


class Hourglass(nn.Module):
    """Pools `depth` times, and on the way back adds what each size held."""

    def __init__(self, depth: int = 4, width: int = WIDTH) -> None:
        super().__init__()
        self.depth = depth
        for level in range(depth, 0, -1):
            for name in ("b1", "b2", "b3"):
                self.add_module(f"{name}_{level}", Block(width, width))
        self.add_module("b2_plus_1", Block(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self._level(self.depth, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        low = getattr(self, f"b2_{level}")(F.avg_pool2d(x, 2))
        low = self._level(level - 1, low) if level > 1 else self.b2_plus_1(low)
        low = F.interpolate(getattr(self, f"b3_{level}")(low), scale_factor=2, mode="nearest")
        return getattr(self, f"b1_{level}")(x) + low


class FAN2D(nn.Module):
    """Stacked hourglasses; each stack refines the heat-maps of the one before.

    Args:
        num_modules: stacks, 4 as published.
    """

    def __init__(self, *, num_modules: int = 4) -> None:
        super().__init__()
        self.num_modules = num_modules
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2, self.conv3, self.conv4 = Block(64, 128), Block(128, 128), Block(128, WIDTH)
        for i in range(num_modules):
            self.add_module(f"m{i}", Hourglass())
            self.add_module(f"top_m_{i}", Block(WIDTH, WIDTH))
            self.add_module(f"conv_last{i}", nn.Conv2d(WIDTH, WIDTH, 1))
            self.add_module(f"bn_end{i}", nn.BatchNorm2d(WIDTH))
            self.add_module(f"l{i}", nn.Conv2d(WIDTH, NUM_LANDMARKS, 1))
            if i < num_modules - 1:
                self.add_module(f"bl{i}", nn.Conv2d(WIDTH, WIDTH, 1))
                self.add_module(f"al{i}", nn.Conv2d(NUM_LANDMARKS, WIDTH, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Heat-maps (B, 68, H/4, W/4) of every stack, the last is the result.

        Args:
            x: RGB (B, 3, H, W) in [0, 1], 256 x 256 as published.
        """
        x = F.avg_pool2d(self.conv2(F.relu(self.bn1(self.conv1(x)))), 2)
        x = self.conv4(self.conv3(x))
        found = []
        for i in range(self.num_modules):
            h = self._part("top_m_", i)(self._part("m", i)(x))
            h = F.relu(self._part("bn_end", i)(self._part("conv_last", i)(h)))
            found.append(self._part("l", i)(h))
            if i < self.num_modules - 1:
                x = x + self._part("bl", i)(h) + self._part("al", i)(found[-1])
        return found

    def _part(self, name: str, index: int) -> nn.Module:
        return getattr(self, f"{name}{index}")


def teacher_network(path: str | Path, flag: str = "--fan_teacher") -> FAN2D:
    """The published teacher, fixed and in eval mode.

    Raises:
        FileNotFoundError, ValueError: no such file, no state dict, or one of another network.
    """
    network = FAN2D()
    with checkpoint.named_by(flag):
        network.load_state_dict(checkpoint.load_weights(path, network.state_dict()))
    return network.requires_grad_(False).eval()
