"""Differences of features."""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def feature_l1(restored: Sequence[Tensor], gt: Sequence[Tensor],
               weights: Sequence[float] | None = None) -> Tensor:
    """Weighted sum over layers of the mean absolute difference of two lists of features.

    Args:
        restored: features of the restored images, any shapes.
        gt: those of the targets; no gradient reaches them.
        weights: one per layer, all 1 if None.

    Source: perceptual losses, arXiv 1603.08155; SPARNetHD weighs its five layers equally.
    """
    weights = [1.0] * len(gt) if weights is None else weights
    return sum(weight * F.l1_loss(restored_features, gt_features.detach())
               for weight, restored_features, gt_features
               in zip(weights, restored, gt, strict=True))


def pyramid_losses(rgbs: Sequence[Tensor], gt: Tensor) -> list[Tensor]:
    """Mean absolute difference at each size, in the order of `rgbs`.

    Args:
        rgbs: images (B, 3, h, h), each twice as large as the one before; the last has gt's size.
        gt: (B, 3, H, H); halved bilinearly, which is the mean of 2 x 2 pixels.

    Source: GFP-GAN (arXiv 2101.04061).
    """
    losses = []
    for rgb in reversed(rgbs):
        losses.append(F.l1_loss(rgb, gt))
        gt = F.avg_pool2d(gt, 2)
    return losses[::-1]
