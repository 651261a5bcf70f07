"""How far a restored face is from its person."""
from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

# What of an aligned 256-pixel picture shows the face: rows, then columns.
CROP, CROP_SIZE = ((35, 256 - 33), (32, 256 - 36)), 256
INPUT_SIZE = 112


def face_crop(images: Tensor) -> Tensor:
    """The face of aligned pictures, as the recognition network wants it.

    Args:
        images: (B, C, size, size), aligned as FFHQ is. Published for multiples of 256; at other
            sizes the crop is scaled and cut to whole pixels.

    Returns:
        (B, C, 112, 112).
    """
    (top, bottom), (left, right) = (
        tuple(edge * images.shape[2] // CROP_SIZE for edge in edges) for edges in CROP)
    return F.adaptive_avg_pool2d(images[:, :, top:bottom, left:right], INPUT_SIZE)


def identity_loss(network: Callable[[Tensor], Tensor], restored: Tensor, gt: Tensor) -> Tensor:
    """1 - cosine of the two faces' features, mean over the batch.

    Args:
        network: unit vectors (B, N) of pictures (B, 3, 112, 112), see IRSE50.
        restored, gt: (B, 3, size, size) in [-1, 1]; no gradient reaches gt.

    Source: GPEN (arXiv 2105.06070).
    """
    theirs = network(face_crop(gt.detach())).detach()
    return (1 - (network(face_crop(restored)) * theirs).sum(1)).mean()
