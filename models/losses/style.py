"""Style and feature losses of PSFR-GAN: Gram matrices inside face regions.

Regions do not overlap, so multiplying a whole feature map by each of 19 masks is mostly work on
zeros. Here the pixels of an image are gathered by region into blocks of one size, each region's
last block filled up with zeros; one batched product gives the blocks' Gram matrices, and a region's
is the sum of its blocks'. The number of blocks depends on shapes only, never on what the labels
hold: BLOCKS full ones, and one more per region for what the division leaves over. So no device is
ever asked how large a region is.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from engine import device as devices

BLOCKS = 32


class Layout:
    """Where the pixels of labeled images go when they are gathered by region.

    Args:
        labels: (B, N) int64; a value outside 0 to num_regions - 1 belongs to no region.
        num_regions: K.

    Attributes:
        area: (B, K) float32, pixels per region.
        slot: (B, N), the place of each pixel; pixels of no region have the place after the last.
        source: (B, P, S), the pixel in each of P blocks of S places; N where there is none.
        region: (B, P), of each block; K for a block without pixels.
    """

    def __init__(self, labels: Tensor, num_regions: int) -> None:
        batch, count = labels.shape
        side = -(-count // BLOCKS)
        num_blocks = BLOCKS + num_regions
        inside = labels[:, None] == torch.arange(num_regions, device=labels.device)[:, None]
        rank = inside.long().cumsum(dim=2)                  # (B, K, N), from 1
        pixels = rank[:, :, -1]                             # (B, K)
        last_block = ((pixels + side - 1) // side).cumsum(dim=1)
        start = F.pad(last_block[:, :-1], (1, 0)) * side    # first place of each region
        # One term of the sum remains, or none.
        place = ((start[:, :, None] + rank - 1) * inside).sum(dim=1)
        self.slot = torch.where(inside.any(dim=1), place, num_blocks * side)
        source = labels.new_full((batch, num_blocks * side + 1), count)
        pixel = torch.arange(count, device=labels.device).expand(batch, -1)
        source = source.scatter_(1, self.slot, pixel)[:, :-1]
        self.source = source.view(batch, num_blocks, side)
        block = torch.arange(num_blocks, device=labels.device)
        self.region = (block[:, None] >= last_block[:, None]).sum(dim=2)
        self.area = pixels.float()


class RegionGrams(Function):
    """(B, N, C) features of a Layout's pixels to (B, K, C, C) sums of products per region."""

    @staticmethod
    def forward(ctx, rows: Tensor, layout: Layout) -> Tensor:
        batch, _, channels = rows.shape
        blocks = _gather(rows, layout.source)
        ctx.save_for_backward(blocks, layout.slot, layout.region)
        products = torch.bmm(blocks.transpose(1, 2), blocks)
        regions = torch.arange(layout.area.shape[1], device=rows.device)
        # Products with 0 and 1, not index_add_, whose sums have no fixed order on some devices.
        member = (layout.region[:, None] == regions[:, None]).to(rows.dtype)    # (B, K, P)
        grams = torch.bmm(member, products.view(batch, -1, channels * channels))
        return grams.view(batch, -1, channels, channels)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        blocks, slot, region = ctx.saved_tensors
        batch, num_regions, channels, _ = grad.shape
        # A row for the blocks without pixels, whose features are zero.
        grad = F.pad(grad + grad.transpose(2, 3), (0, 0, 0, 0, 0, 1)).flatten(0, 1)
        first = torch.arange(batch, device=grad.device)[:, None] * (num_regions + 1)
        per_block = grad.index_select(0, (first + region).flatten())
        rows = torch.bmm(blocks, per_block).view(batch, -1, channels)
        return _gather(rows, slot), None


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N, C) at an index (B, ...) per image, zeros at N, joined as (B * n, S, C) for an
    index (B, n, S) and as (B, n, C) for (B, n)."""
    batch, count, channels = rows.shape
    rows = F.pad(rows, (0, 0, 0, 1)).flatten(0, 1)
    first = torch.arange(batch, device=rows.device) * (count + 1)
    found = rows.index_select(0, (first[:, None] + index.flatten(1)).flatten())
    return found.view(-1, index.shape[-1], channels)


def resized_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) at another size, each pixel from the one at floor(i * in / out)."""
    # Small whole numbers are exact in float32, which every device can resize.
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()


def region_grams(features: Tensor, labels: Tensor, num_regions: int, eps: float = 1e-8) -> Tensor:
    """Gram matrix of the features inside each region, per image, in float32 or wider.

    Args:
        features: (B, C, H, W), any range and layout.
        labels: (B, H', W') integers; other sizes are resized to the features'. A value outside 0
            to num_regions - 1 belongs to no region.
        eps: added to a region's area, in pixels of the features.

    Returns:
        (B, num_regions, C, C), divided by C * (area + eps); zeros for an empty region.

    Source: PSFR-GAN (arXiv 2009.08709), semantic-aware style loss, with upstream's normalizer.
    """
    features = features.float() if features.dtype in (torch.half, torch.bfloat16) else features
    labels = resized_labels(labels, tuple(features.shape[2:]))
    with devices.full_precision(features.device):
        layout = Layout(labels.flatten(1), num_regions)
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        grams = RegionGrams.apply(rows, layout)
    return grams / (features.shape[1] * (layout.area + eps))[..., None, None]


def style_loss(restored: Sequence[Tensor], gt: Sequence[Tensor], labels: Tensor,
               num_regions: int) -> Tensor:
    """Sum over layers of the mean squared difference of the regions' Gram matrices.

    Args:
        restored, gt: features (B, C, H, W) per layer; no gradient reaches gt.
        labels, num_regions: see region_grams.

    Source: PSFR-GAN (arXiv 2009.08709).
    """
    losses = []
    for restored_features, gt_features in zip(restored, gt, strict=True):
        with torch.no_grad():
            target = region_grams(gt_features, labels, num_regions)
        losses.append(F.mse_loss(region_grams(restored_features, labels, num_regions), target))
    return torch.stack(losses).sum()


def feature_mse(restored: Sequence[Tensor], gt: Sequence[Tensor],
                weights: Sequence[float] | None = None) -> Tensor:
    """Weighted sum over layers of the mean squared difference of two lists of features.

    Args:
        restored: features of the restored images, any shapes.
        gt: those of the targets; no gradient reaches them.
        weights: one per layer, all 1 if None.

    Source: PSFR-GAN's feature matching (weights 1) and perceptual loss, where `perceptual.py` and
    `gan.py` have SPARNetHD's absolute differences.
    """
    weights = [1.0] * len(gt) if weights is None else weights
    return sum(weight * F.mse_loss(restored_features, gt_features.detach())
               for weight, restored_features, gt_features
               in zip(weights, restored, gt, strict=True))


# ---- whole feature maps: GFP-GAN -----------------------------------------------------------------

def gram(features: Tensor) -> Tensor:
    """Gram matrix (B, C, C) of features (B, C, H, W), divided by C H W; float32 or wider."""
    _, channels, height, width = features.shape
    with devices.full_precision(features.device):
        rows = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)
        return rows @ rows.transpose(1, 2) / (channels * height * width)


def gram_l1(restored: Sequence[Tensor], gt: Sequence[Tensor],
            weights: Sequence[float]) -> Tensor:
    """Weighted sum over layers of the mean absolute difference of two lists' Gram matrices.

    Args:
        restored, gt: features (B, C, H, W) per layer; no gradient reaches gt.
        weights: one per layer.
    """
    return sum(weight * F.l1_loss(gram(restored_features), gram(gt_features.detach()))
               for weight, restored_features, gt_features
               in zip(weights, restored, gt, strict=True))
