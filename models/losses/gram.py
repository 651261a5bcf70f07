"""Style as the Gram matrices of features: of perceptual networks, and of discriminators.

Source: arXiv 1603.08155; GFP-GAN (arXiv 2101.04061) for components, with absolute differences.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """Gram matrix (B, C, C) of features (B, C, H, W), divided by C H W; float32 or wider."""
    _, channels, height, width = features.shape
    with torch.autocast(features.device.type, enabled=False):
        rows = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)
        return rows @ rows.transpose(1, 2) / (channels * height * width)


def gram_l1(restored: Sequence[Tensor], gt: Sequence[Tensor],
            weights: Sequence[float]) -> Tensor:
    """Weighted sum over layers of the mean absolute difference of two lists' Gram matrices.

    Args:
        restored, gt: features (B, C, H, W) per layer; no gradient reaches gt.
        weights: one per layer.
    """
    return sum(weight * F.l1_loss(gram(ours), gram(theirs.detach()))
               for weight, ours, theirs in zip(weights, restored, gt, strict=True))
