"""How well maps of regions agree."""
from __future__ import annotations

import torch
from torch import Tensor


def overlaps(predicted: Tensor, target: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Pixels that both maps give to a region, and that one or both do.

    Args:
        predicted, target: labels (B, H, W) of any integer type, from 0 to num_labels - 1.

    Returns:
        (intersections, unions): float64 (B, num_labels), on the CPU.
    """
    batch = len(target)
    offset = num_labels * num_labels * torch.arange(batch, device=target.device)[:, None]
    pairs = (target.long() * num_labels + predicted.long()).flatten(1) + offset
    counts = torch.bincount(pairs.flatten().cpu(), minlength=batch * num_labels * num_labels)
    confusion = counts.view(batch, num_labels, num_labels).double()
    both = confusion.diagonal(dim1=1, dim2=2)
    return both, confusion.sum(1) + confusion.sum(2) - both


def mean_iou(intersections: Tensor, unions: Tensor, present: Tensor) -> Tensor:
    """Intersection over union (..., K), averaged over the regions that are `present`."""
    iou = intersections / unions.clamp(min=1)
    return (iou * present).sum(-1) / present.sum(-1)


def iou_per_image(predicted: Tensor, target: Tensor, num_labels: int) -> list[float]:
    """Mean intersection over union of each image, over the regions its target has."""
    both, either = overlaps(predicted, target, num_labels)
    present = torch.stack([torch.bincount(each.flatten().cpu(), minlength=num_labels) > 0
                           for each in target.long()])
    return mean_iou(both, either, present).tolist()
