"""RoI align as two matrix products: exact, differentiable, the same operators on every backend.

Bilinear samples on a grid separate: crop = A_y X A_x^T, where row p of A holds the weights with
which pixels of one axis enter bin p. The backward pass is two products as well, without the
scattered additions of the usual kernels, whose sums have no fixed order.

Source: Mask R-CNN (arXiv 1703.06870); conventions of torchvision.ops.roi_align.
"""
from __future__ import annotations

import torch
from torch import Tensor

from engine import device as devices
from utils.text import counted


def _axis_matrix(start: Tensor, end: Tensor, bins: int, pixels: int, sampling_ratio: int,
                 aligned: bool, max_samples: int) -> Tensor:
    """Weights (K, bins, pixels) of one axis for boxes from start to end, (K,) each, float32."""
    offset = 0.5 if aligned else 0.0
    start, length = start - offset, end - start
    if not aligned:
        length = length.clamp_min(1)
    bin_size = length / bins
    # Shapes must not depend on the boxes, which a device would have to be asked for.
    if sampling_ratio > 0:
        max_samples = sampling_ratio
        count = torch.full_like(start, sampling_ratio)
    else:
        count = bin_size.ceil().clamp(1, max_samples)
    position = torch.arange(bins, device=start.device, dtype=start.dtype)
    pixel = torch.arange(pixels, device=start.device, dtype=start.dtype)
    matrix = start.new_zeros(len(start), bins, pixels)
    for sample in range(max_samples):
        within = (sample + 0.5) / count                                     # (K,)
        v = start[:, None] + (position + within[:, None]) * bin_size[:, None]
        inside = (v >= -1) & (v <= pixels) & (sample < count)[:, None]
        distance = (v.clamp(0, pixels - 1)[..., None] - pixel).abs()
        matrix = matrix + (1 - distance).clamp_min(0) * inside[..., None]
    return matrix / count[:, None, None]


def roi_align(x: Tensor, boxes: Tensor, size: int, *, index: Tensor | None = None,
              sampling_ratio: int = -1, aligned: bool = False, max_samples: int = 4) -> Tensor:
    """Crops of one size out of images.

    Args:
        x: (B, C, H, W).
        boxes: (K, 4), x1 y1 x2 y2 in pixels; get no gradient.
        size: side of the crops.
        index: (K,), the image of each box; None takes the boxes in the images' order.
        sampling_ratio: samples per bin and axis; -1 takes as many as a bin has pixels, rounded up.
        aligned: pixel centers lie at .5, and boxes below one pixel stay as small as they are.
        max_samples: upper limit for sampling_ratio -1: boxes up to so many times `size` are exact.

    Returns:
        (K, C, size, size) of x's type; samples more than a pixel outside count as 0.

    Raises:
        ValueError: boxes and images do not match in number.
    """
    if index is None and len(boxes) != len(x):
        raise ValueError(f"index is needed unless there is one box per image, got "
                         f"{counted(len(boxes), 'box', 'boxes')} and {counted(len(x), 'image')}")
    # ceil is sensitive, and half precision has no pixel positions above 2048.
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    x1, y1, x2, y2 = boxes.unbind(1)
    settings = (sampling_ratio, aligned, max_samples)
    rows = _axis_matrix(y1, y2, size, x.shape[2], *settings).to(x.dtype)
    columns = _axis_matrix(x1, x2, size, x.shape[3], *settings).to(x.dtype)
    images = x if index is None else x.index_select(0, index)
    with devices.full_precision(x.device):
        return rows[:, None] @ (images @ columns.transpose(1, 2)[:, None])
