"""Adversarial and feature-matching losses.

Source: chaofengc/Face-SPARNet, models/loss.py; hinge: arXiv 1705.02894, lsgan: arXiv 1611.04076,
logistic ("softwgan" there): arXiv 1406.2661 in its non-saturating form.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Per mode: the critic's term on real logits, on fake logits, and the generator's on fake logits.
TERMS: dict[str, tuple[Callable, Callable, Callable]] = {
    "hinge": (lambda r: F.relu(1 - r), lambda f: F.relu(1 + f), lambda f: -f),
    "lsgan": (lambda r: (r - 1) ** 2, lambda f: f ** 2, lambda f: (f - 1) ** 2),
    "vanilla": (lambda r: F.softplus(-r), F.softplus, lambda f: F.softplus(-f)),
    "logistic": (lambda r: F.softplus(-r), F.softplus, lambda f: F.softplus(-f)),
    "wgan": (lambda r: -r, lambda f: f, lambda f: -f),
}
TERMS["softwgan"], TERMS["wgangp"] = TERMS["logistic"], TERMS["wgan"]     # published spellings


def _term(mode: str, which: int, logits: Tensor) -> Tensor:
    if mode not in TERMS:
        raise ValueError(f"unknown --gan_mode {mode}; known are {', '.join(TERMS)}")
    return TERMS[mode][which](logits).mean()


def real_term(real_logits: Tensor, mode: str) -> Tensor:
    """The discriminator's loss on real pictures, averaged over positions and batch.

    Args:
        real_logits: any shape and range.
        mode: hinge, lsgan, vanilla, logistic or wgan.

    Raises:
        ValueError: unknown mode.
    """
    return _term(mode, 0, real_logits)


def fake_term(fake_logits: Tensor, mode: str) -> Tensor:
    """The discriminator's loss on made pictures; see `real_term`."""
    return _term(mode, 1, fake_logits)


def generator_term(fake_logits: Tensor, mode: str) -> Tensor:
    """The generator's loss: low where the discriminator takes its pictures for real."""
    return _term(mode, 2, fake_logits)


def discriminator_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor],
                       mode: str) -> Tensor:
    """Half the sum of real and fake term, averaged over the scales of a discriminator."""
    scales = [0.5 * (fake_term(fake, mode) + real_term(real, mode))
              for real, fake in zip(real_logits, fake_logits, strict=True)]
    return torch.stack(scales).mean()


def generator_loss(fake_logits: Sequence[Tensor], mode: str) -> Tensor:
    """The generator's term, averaged over the scales of a discriminator."""
    return torch.stack([generator_term(fake, mode) for fake in fake_logits]).mean()


def feature_matching_loss(gt_features: Sequence[Sequence[Tensor]],
                          fake_features: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean absolute difference of a discriminator's features, summed over layers, mean over scales.

    Args:
        gt_features, fake_features: per scale the layers' features; no gradient reaches the former.

    Source: pix2pixHD (arXiv 1711.11585).
    """
    scales = [sum(F.l1_loss(fake, real.detach())
                  for real, fake in zip(reals, fakes, strict=True))
              for reals, fakes in zip(gt_features, fake_features, strict=True)]
    return torch.stack(scales).mean()
