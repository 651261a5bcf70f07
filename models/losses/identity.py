"""Identity loss: distance of a restored face from the identity of its target."""
from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from models.networks.pretrained.irse import face_crop


def identity_loss(network: Callable[[Tensor], Tensor], restored: Tensor, gt: Tensor) -> Tensor:
    """1 - cosine of the two faces' features, mean over the batch.

    Args:
        network: unit vectors (B, N) of images (B, 3, 112, 112), see IRSE50.
        restored, gt: (B, 3, size, size) in [-1, 1]; no gradient reaches gt.

    Source: GPEN (arXiv 2105.06070).
    """
    gt_embedding = network(face_crop(gt.detach())).detach()
    return (1 - (network(face_crop(restored)) * gt_embedding).sum(1)).mean()
