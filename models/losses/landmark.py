"""PFSRNet's losses on landmark heat-maps.

Source: arXiv 1908.08239 and the training code its authors withdrew. There the restored image's
maps are shifted by the minimum of the target's, a mistake; here each image has its own range.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalized_maps(maps: Tensor, eps: float = 1e-8) -> Tensor:
    """Heat-maps (B, N, H, W) normalized to [0, 1] by each image's smallest and largest value.

    Args:
        eps: added to the range; constant maps give zeros.
    """
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return (maps - low) / (high - low + eps)


def attention_map(maps: Tensor) -> Tensor:
    """Largest of an image's maps per pixel, (B, N, H, W) to (B, 1, H, W)."""
    return maps.amax(dim=1, keepdim=True)


def attention_loss(restored: Tensor, gt: Tensor, attention: Tensor) -> Tensor:
    """Mean absolute difference of images (B, 3, H, W), weighted by (B, 1, H, W)."""
    return (attention.detach() * (restored - gt).abs()).mean()


def heatmap_loss(restored_maps: Tensor, gt_maps: Tensor) -> Tensor:
    """Mean squared difference of normalized maps; no gradient reaches the target's."""
    return F.mse_loss(restored_maps, gt_maps.detach())


def gaussian_maps(landmarks: Tensor, size: int, sigma: float = 1.75) -> Tensor:
    """Target heat-maps: a Gaussian of height 1 at each landmark, cut off beyond 2 sigma.

    Args:
        landmarks: (B, N, 2) x y in pixels; one outside the image leaves what reaches into it.
        size: side of the maps, in pixels.
        sigma: standard deviation in pixels; 1.75 gives 7 x 7 pixels.

    Returns:
        (B, N, size, size).

    Source: 1adrianb/face-alignment's training targets.
    """
    center = landmarks.round()
    pixels = torch.arange(size, dtype=landmarks.dtype, device=landmarks.device)
    offset = pixels - center[..., None]                           # (B, N, 2, size)
    weight = (-offset.square() / (2 * sigma ** 2)).exp() * (offset.abs() <= int(2 * sigma))
    return weight[:, :, 1, :, None] * weight[:, :, 0, None, :]
