"""Pillow's bilinear halving of 8-bit images, bit for bit, on tensors of any device."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = (1.0, 3.0, 3.0, 1.0)


def halved(images: Tensor) -> Tensor:
    """Half the size of images (B, 3, H, W) in [-1, 1] that hold 8-bit values; H and W even.

    Columns come first, and each pass rounds to whole gray levels, as Pillow does.
    """
    levels = ((images.float() + 1) * 127.5).round()
    for dim in (3, 2):
        levels = _half(levels, dim)
    return levels.div_(levels.new_full((), 255.0)).sub_(0.5).div_(0.5)


def _half(levels: Tensor, dim: int) -> Tensor:
    """One pass along a dimension; at the borders the tap outside is left out."""
    count = levels.shape[dim] // 2
    padded = F.pad(levels, (1, 1, 0, 0) if dim == 3 else (0, 0, 1, 1))
    # Whole numbers, exact in float32; sevenths and eighths are never just below a half.
    total = sum(tap * _every_second(padded, dim, start, count) for start, tap in enumerate(TAPS))
    weight = torch.full((count,), sum(TAPS), device=levels.device)
    weight[0] -= TAPS[0]
    weight[-1] -= TAPS[-1]      # the same place again where one pixel is left
    weight = weight.view([-1 if d == dim else 1 for d in range(4)])
    return (total / weight + 0.5).floor()


def _every_second(x: Tensor, dim: int, start: int, count: int) -> Tensor:
    last = start + 2 * count - 1
    return x[..., start:last:2] if dim == 3 else x[:, :, start:last:2]


def pyramid(images: Tensor, num_stages: int = 3) -> list[Tensor]:
    """Targets of the stages, the smallest first and `images` itself last."""
    found = [images]
    for _ in range(num_stages - 1):
        found.insert(0, halved(found[0]))
    return found
