"""Activation checkpointing: a block's inside is computed again in the backward pass, not kept."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.ops.spectral import spectral_hooks


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), keeping only x for the backward pass.

    The second computation changes no state: running statistics and spectral norm's vectors move
    once per step, as without checkpointing.
    """
    return checkpoint(block, x, use_reentrant=False,
                      context_fn=lambda: (nullcontext(), _repeating(block)))


@contextmanager
def _repeating(block: nn.Module) -> Iterator[None]:
    """Let batch norms move copies of their running statistics, and spectral norms nothing."""
    kept = [(module, dict(module._buffers)) for module in block.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
            and module.training]
    spectral = [module for module in block.modules() if module.training and spectral_hooks(module)]
    # Copies, not None: the second computation must save as many tensors as the first.
    for norm, buffers in kept:
        norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})
    # In eval mode a spectral norm takes its stored vectors, which the first computation left.
    for module in spectral:
        module.training = False
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
        for module in spectral:
            module.training = True


def run_blocks(blocks: nn.Sequential, x: Tensor, checkpointing: bool) -> Tensor:
    """Apply blocks in order, checkpointing each where asked and where gradients are wanted."""
    if not checkpointing or not torch.is_grad_enabled():
        return blocks(x)
    for block in blocks:
        x = checkpointed(block, x)
    return x
