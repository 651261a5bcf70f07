"""`torch_npu.optim.NpuFusedAdam` as recorded: Adam's values, and every defect of the real one.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class NpuFusedAdam(torch.optim.Optimizer):
    """Adam over flat buffers, one per data type and parameter group.

    Parameters, gradients and moments become parts of those buffers at the first `step` or
    `zero_grad` that sees gradients. What leaves the buffers afterwards is not noticed: gradients
    set to None, parameters given other data, states loaded late. A parameter without gradient at
    that moment never gets a state.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False) -> None:
        for name, value, valid in (("learning rate", lr, lr >= 0), ("epsilon value", eps, eps >= 0),
                                   ("beta parameter", betas, all(0 <= b < 1 for b in betas)),
                                   ("weight_decay value", weight_decay, weight_decay >= 0)):
            if not valid:
                raise ValueError(f"Invalid {name}: {value}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps,
                                  "weight_decay": weight_decay, "amsgrad": amsgrad})
        self._flat: list[list[tuple[list[Tensor], Tensor, Tensor]]] | None = None
        self._states: list[list[dict[str, Any]]] | None = None

    # -- flattening -------------------------------------------------------------------------------

    @torch.no_grad()
    def _flatten(self) -> None:
        """Make parameters and gradients parts of flat buffers, once there are gradients."""
        grads = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self._flat is not None or not grads:
            return
        for param in grads:
            if param.device.type != "npu":
                raise NotImplementedError(f"npu_combine_tensors has no kernel for tensors on "
                                          f"{param.device}")
            if param.dtype not in (torch.float32, torch.float16):
                raise TypeError(f"Fused optimizer's parameters must be either float32 or float16, "
                                f"but received {param.dtype}")
        self._flat = [[self._combine([p for p in group["params"]
                                      if p.grad is not None and p.dtype is dtype])
                       for dtype in (torch.float32, torch.float16)] for group in self.param_groups]

    def _combine(self, params: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        size = sum(p.numel() for p in params)
        source = params[0] if params else torch.empty(0, device="npu")
        weights, grads = source.new_zeros(size), source.new_zeros(size)
        for param, weight, grad in zip(params, _parts(weights, params), _parts(grads, params),
                                       strict=True):
            weight.copy_(param)
            grad.copy_(param.grad)
            param.data, param.grad = weight, grad
        return params, weights, grads

    def _combine_states(self) -> None:
        """Moments become parts of buffers; the first parameter's `step` also counts for all."""
        if self._states is not None:
            return
        self._states = []
        for group, buffers in zip(self.param_groups, self._flat, strict=True):
            keys = ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * group["amsgrad"]
            self._states.append([self._combine_state(params, weights, keys)
                                 for params, weights, _ in buffers])

    def _combine_state(self, params: list[Tensor], weights: Tensor,
                       keys: tuple[str, ...]) -> dict[str, Any]:
        combined: dict[str, Any] = {key: torch.zeros_like(weights) for key in keys}
        for param in params:
            self.state[param].setdefault("step", 0)
        for key in keys:
            for param, part in zip(params, _parts(combined[key], params), strict=True):
                if key in self.state[param]:
                    part.copy_(self.state[param][key])
                self.state[param][key] = part
        combined["step"] = self.state[params[0]]["step"] if params else 0
        return combined

    # -- the optimizer's methods ------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = False) -> None:
        if set_to_none:
            raise ValueError("set_to_none is not supported in fused optimizers")
        self._flatten()
        for buffers in self._flat or []:
            for _, _, grads in buffers:
                grads.zero_()

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        self._flatten()
        if self._flat is None:
            return loss
        self._combine_states()
        for group, buffers, states in zip(self.param_groups, self._flat, self._states,
                                          strict=True):
            for param in group["params"]:
                if param.grad is not None:
                    self.state[param]["step"] += 1      # KeyError: its first gradient came late
            for (params, weights, grads), state in zip(buffers, states, strict=True):
                if params:
                    state["step"] += 1
                    _adam(weights, grads, state, group)
        return loss

    def clip_grad_norm_fused_(self, max_norm: float, norm_type: float = 2) -> Tensor:
        """Clip all gradients of the flat buffers together; returns the norm before clipping."""
        self._flatten()
        flat = [grads for buffers in self._flat or [] for params, _, grads in buffers if params]
        if not flat:
            return torch.tensor(0.0)
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(g.float(), norm_type) for g in flat]), norm_type)
        factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for grads in flat:
            grads.mul_(factor)
        return norm


def _parts(flat: Tensor, params: list[Tensor]) -> list[Tensor]:
    """Views of a flat buffer in the parameters' shapes."""
    pieces = flat.split([p.numel() for p in params]) if params else []
    return [piece.view(p.shape) for piece, p in zip(pieces, params, strict=True)]


def _adam(weights: Tensor, grads: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One step on a flat buffer, in the order of torch's own loop (arXiv 1412.6980)."""
    first, second = group["betas"]
    step = float(state["step"])
    if group["weight_decay"]:
        grads = grads.add(weights, alpha=group["weight_decay"])
    state["exp_avg"].lerp_(grads, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(grads, grads, value=1 - second)
    variance = state["exp_avg_sq"]
    if group["amsgrad"]:
        torch.maximum(state["max_exp_avg_sq"], variance, out=state["max_exp_avg_sq"])
        variance = state["max_exp_avg_sq"]
    denominator = (variance.sqrt() / (1 - second ** step) ** 0.5).add_(group["eps"])
    weights.addcdiv_(state["exp_avg"], denominator, value=-group["lr"] / (1 - first ** step))
