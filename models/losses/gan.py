"""Adversarial and feature-matching losses.

Source: chaofengc/Face-SPARNet, models/loss.py; hinge: arXiv 1705.02894, lsgan: arXiv 1611.04076,
logistic ("softwgan" there): arXiv 1406.2661 in its non-saturating form. Wasserstein losses with
gradient penalty (arXiv 1704.00028) and drift (arXiv 1710.10196), as PFSRNet trains its
discriminator.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Per mode: the discriminator's term on real and on fake logits, the generator's on fake ones.
TERMS: dict[str, tuple[Callable, Callable, Callable]] = {
    "hinge": (lambda r: F.relu(1 - r), lambda f: F.relu(1 + f), lambda f: -f),
    "lsgan": (lambda r: (r - 1) ** 2, lambda f: f ** 2, lambda f: (f - 1) ** 2),
    "vanilla": (lambda r: F.softplus(-r), F.softplus, lambda f: F.softplus(-f)),
    "logistic": (lambda r: F.softplus(-r), F.softplus, lambda f: F.softplus(-f)),
    "wgan": (lambda r: -r, lambda f: f, lambda f: -f),
}
TERMS["softwgan"], TERMS["wgangp"] = TERMS["logistic"], TERMS["wgan"]     # published spellings
PENALTIES = ("two_sided", "one_sided_mean")
ROOT_EPS = 1e-12


def _term(mode: str, which: int, logits: Tensor) -> Tensor:
    if mode not in TERMS:
        raise ValueError(f"--gan_mode must be one of {', '.join(TERMS)}, got {mode}")
    return TERMS[mode][which](logits).mean()


def real_term(real_logits: Tensor, mode: str) -> Tensor:
    """The discriminator's loss on real images, averaged over positions and batch.

    Args:
        real_logits: any shape and range.
        mode: hinge, lsgan, vanilla, logistic or wgan.

    Raises:
        ValueError: unknown mode.
    """
    return _term(mode, 0, real_logits)


def fake_term(fake_logits: Tensor, mode: str) -> Tensor:
    """The discriminator's loss on fake images; see `real_term`."""
    return _term(mode, 1, fake_logits)


def generator_term(fake_logits: Tensor, mode: str) -> Tensor:
    """The generator's loss: low where the discriminator classifies its images as real."""
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


# ---- Wasserstein with gradient penalty -----------------------------------------------------------

def gradient_norms(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Norm (B,) of each image's gradient of the sum of its logits, to be trained on."""
    images = images.detach().requires_grad_(True)
    gradient, = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return (gradient.flatten(1).square().sum(dim=1) + ROOT_EPS).sqrt()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], restored: Tensor, gt: Tensor,
                     fraction: Tensor, kind: str = "two_sided") -> Tensor:
    """Gradient penalty: distance from 1 of D's gradient norm between fake and real images.

    Args:
        discriminator: from images (B, 3, H, W) to logits (B,), in fp32.
        restored, gt: images; no gradient reaches them.
        fraction: (B, 1, 1, 1) in [0, 1], how much of the real image is in the mixture.
        kind: `two_sided` penalizes each image's norm; `one_sided_mean`, the form of the first
            published code, only a mean norm above 1.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in PENALTIES:
        raise ValueError(f"--gp must be one of {', '.join(PENALTIES)}, got {kind!r}")
    norms = gradient_norms(discriminator, fraction * gt + (1 - fraction) * restored)
    return (norms - 1).square().mean() if kind == "two_sided" else F.relu(norms.mean() - 1)


def wasserstein_loss(real_logits: Tensor, fake_logits: Tensor, drift: float = 1e-3) -> Tensor:
    """Wasserstein loss of logits (B,) of fake and real images, low where D tells them
    apart; the drift term keeps real logits near 0."""
    real = real_logits.mean()
    return fake_logits.mean() - (real - drift * real_logits.square().mean())
