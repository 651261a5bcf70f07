"""Weight initialization by name."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_DRAWS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "normal": lambda weight, gain: nn.init.normal_(weight, 0.0, gain),
    "xavier": lambda weight, gain: nn.init.xavier_normal_(weight, gain=gain),
    "kaiming": lambda weight, gain: nn.init.kaiming_normal_(weight, a=0.0, mode="fan_in"),
    "orthogonal": lambda weight, gain: nn.init.orthogonal_(weight, gain=gain),
}
KINDS = (*_DRAWS, "default")
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def init_weights(net: nn.Module, kind: str = "normal", gain: float = 0.02) -> nn.Module:
    """Draw the weights of convolutions, linear layers and batch norms anew, in place.

    Biases become 0, batch-norm gains N(1, gain); instance and group norms keep 1 and 0. Works
    before and after spectral_norm, but its u and v belong to the old weights: initialize first.

    Args:
        net: any module; all its submodules are visited.
        kind: "normal" N(0, gain), "xavier", "kaiming" (fan in, ignores the gain), "orthogonal", or
            "default", which keeps PyTorch's own draw of every weight and only zeroes the biases.
        gain: standard deviation for "normal", factor for "xavier" and "orthogonal".

    Returns:
        The same net.

    Raises:
        ValueError: an unknown kind.

    Source: SPARNet's published training (normal, 0.02).
    """
    if kind not in KINDS:
        raise ValueError(f"init kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for module in net.modules():
        if isinstance(module, _WEIGHTED):
            if kind != "default":
                _DRAWS[kind](getattr(module, "weight_orig", module.weight), gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _BATCH_NORMS) and module.affine:
            if kind != "default":
                nn.init.normal_(module.weight, 1.0, gain)
            nn.init.zeros_(module.bias)
    return net


@torch.no_grad()
def draw_fixed(net: nn.Module, seed: int, gain: float) -> None:
    """Give a network that is never trained the same weights in every run, in place.

    Convolutions and linear layers become N(0, gain / fan in), their biases 0: with a gain of 2
    features keep their size through ReLUs (He, arXiv 1502.01852), with 1 through layers without.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, _WEIGHTED):
            draw = torch.randn(module.weight.shape, generator=generator)
            module.weight.copy_(draw * (gain / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
