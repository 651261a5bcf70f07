"""Wasserstein losses with gradient penalty and drift, as PFSRNet trains its discriminator.

Source: arXiv 1704.00028 (penalty), arXiv 1710.10196 (drift).
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = ("two_sided", "one_sided_mean")
ROOT_EPS = 1e-12


def gradient_norms(critic: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Norm (B,) of each picture's gradient of the sum of its critic's logits, to be trained on."""
    images = images.detach().requires_grad_(True)
    gradient, = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return (gradient.flatten(1).square().sum(dim=1) + ROOT_EPS).sqrt()


def gradient_penalty(critic: Callable[[Tensor], Tensor], restored: Tensor, gt: Tensor,
                     share: Tensor, kind: str = "two_sided") -> Tensor:
    """How far the critic's slope between made and real pictures is from 1.

    Args:
        critic: from pictures (B, 3, H, W) to logits (B,), in fp32.
        restored, gt: pictures; no gradient reaches them.
        share: (B, 1, 1, 1) in [0, 1], how much of the real picture is in the mixture.
        kind: `two_sided` punishes each picture's norm; `one_sided_mean`, the form of the first
            published code, only a mean norm above 1.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in PENALTIES:
        raise ValueError(f"--gp must be one of {', '.join(PENALTIES)}, got {kind!r}")
    norms = gradient_norms(critic, share * gt + (1 - share) * restored)
    return (norms - 1).square().mean() if kind == "two_sided" else F.relu(norms.mean() - 1)


def critic_loss(real_logits: Tensor, fake_logits: Tensor, drift: float = 1e-3) -> Tensor:
    """Distance between logits (B,) of made and real pictures, low for a critic that tells them
    apart; the drift term keeps real logits near 0."""
    real = real_logits.mean()
    return fake_logits.mean() - (real - drift * real_logits.square().mean())
