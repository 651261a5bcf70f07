"""Intermediate restoration: pictures of every size against targets of that size."""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pyramid_losses(rgbs: Sequence[Tensor], gt: Tensor) -> list[Tensor]:
    """Mean absolute difference at each size, in the order of `rgbs`.

    Args:
        rgbs: pictures (B, 3, h, h), each twice as large as the one before; the last has gt's size.
        gt: (B, 3, H, H); halved bilinearly, which is the mean of 2 x 2 pixels.

    Source: GFP-GAN (arXiv 2101.04061).
    """
    losses = []
    for rgb in reversed(rgbs):
        losses.append(F.l1_loss(rgb, gt))
        gt = F.avg_pool2d(gt, 2)
    return losses[::-1]
