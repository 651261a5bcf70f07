"""Penalties on gradients: of the discriminator (R1) and of the generator (path length).

Both differentiate twice: compute them in float32, on networks that DDP does not wrap, and see
BaseModel.gradients for how their gradients are averaged over ranks.
"""
from __future__ import annotations

import torch
from torch import Tensor


def r1_penalty(real_logits: Tensor, gt: Tensor) -> Tensor:
    """Squared norm of the gradient of D at real images, averaged over the batch.

    Args:
        real_logits: D's logits of gt, any shape.
        gt: (B, C, H, W), the tensor that went into D, with requires_grad.

    Source: arXiv 1801.04406.
    """
    grad, = torch.autograd.grad(real_logits.sum(), gt, create_graph=True)
    return grad.square().sum((1, 2, 3)).mean()


def path_lengths(images: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
    """How far images move in a random direction when their latents move.

    Args:
        images: (B, C, H, W), made from the latents.
        latents: (B, layers, style_dim).
        noise: the direction, of the images' shape; None draws N(0, 1).

    Returns:
        (B,), differentiable.

    Source: StyleGAN2 (arXiv 1912.04958), section 3.2.
    """
    noise = torch.randn_like(images) if noise is None else noise
    pixels = images.shape[2] * images.shape[3]
    grad, = torch.autograd.grad((images * noise).sum() / pixels ** 0.5, latents, create_graph=True)
    return grad.square().sum(2).mean(1).sqrt()


def path_length_penalty(lengths: Tensor, mean: Tensor, decay: float = 0.01
                        ) -> tuple[Tensor, Tensor]:
    """Squared distance of path lengths from their running mean.

    Args:
        lengths: (B,), see path_lengths.
        mean: running mean before this batch, scalar.
        decay: weight of this batch in the mean.

    Returns:
        The penalty, and the running mean with this batch in it, detached. The penalty sees the
        latter with its gradient.
    """
    mean = mean + decay * (lengths.mean() - mean)
    return (lengths - mean).square().mean(), mean.detach()
