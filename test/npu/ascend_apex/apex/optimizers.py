"""`apex.optimizers`: the fused Adam, which works with amp only."""
from __future__ import annotations

from typing import Any

import torch


class NpuFusedAdam(torch.optim.Adam):
    """Ascend's arguments; numbers of torch's Adam, as measured."""

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                         amsgrad=amsgrad, foreach=False)

    def zero_grad(self, set_to_none: bool = False) -> None:
        if set_to_none:
            raise ValueError("set_to_none is not supported in fused optimizers")
        super().zero_grad(set_to_none=False)

    def step(self, closure: Any = None) -> None:
        if not getattr(self, "_amp_combined", False):
            raise RuntimeError("NpuFusedAdam needs amp.initialize with combine_grad=True")
        super().step(closure)
