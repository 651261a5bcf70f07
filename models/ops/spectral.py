"""Spectral norm of whole networks, in the form published weights were made with.

The hook of `torch.nn.utils.spectral_norm`, not the newer parametrization: its names are
`weight_orig`, `weight_u`, `weight_v`. In train mode every forward is one power iteration.
Source: arXiv 1802.05957.
"""
from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm, spectral_norm

# Random first vectors say nothing about a weight: divided by such a "norm", an untrained network's
# images reach 1e12 in eval mode. A few iterations bring it within some per cent.
FIRST_ITERATIONS = 5


def apply_spectral_norm(network: nn.Module) -> nn.Module:
    """Normalize every 2-d convolution of a network, in place; initialize its weights before."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            spectral_norm(module)
    for _ in range(FIRST_ITERATIONS):
        iterate_spectral_norms(network)
    return network


def spectral_hooks(module: nn.Module) -> list[SpectralNorm]:
    """The spectral norms of this very module, not of its parts."""
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]


@torch.no_grad()
def iterate_spectral_norms(network: nn.Module) -> None:
    """One power iteration of every convolution, what a forward in train mode does to them.

    A moving average of a network leaves u and v short of unit length and behind its weights; this
    puts them right at a thousandth of a forward's cost.
    """
    for module in network.modules():
        for hook in spectral_hooks(module):
            setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=True))
