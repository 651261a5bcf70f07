"""`apex.amp`: the four functions a training loop calls."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_scalers: list[_Scaler] = []


class _Scaler:
    def __init__(self, scale: float | str, first: float, window: int, largest: float) -> None:
        self.dynamic = scale == "dynamic"
        self.scale = first if self.dynamic else float(scale)
        self.window, self.largest, self.unskipped = window, largest, 0

    def update(self, overflow: bool) -> None:
        if overflow:
            self.scale, self.unskipped = self.scale / 2, 0
            return
        self.unskipped += 1
        if self.dynamic and self.unskipped == self.window:
            self.scale, self.unskipped = min(self.scale * 2, self.largest), 0


def initialize(models: Any, optimizers: Any = None, enabled: bool = True, opt_level: str = "O1",
               cast_model_type: Any = None, patch_torch_functions: Any = None,
               keep_batchnorm_fp32: Any = None, master_weights: Any = None, loss_scale: Any = None,
               cast_model_outputs: Any = None, num_losses: int = 1, verbosity: int = 1,
               min_loss_scale: Any = None, max_loss_scale: float = 2. ** 24,
               dynamic_init_scale: float = 2. ** 16, scale_growth_factor: float = 2,
               scale_backoff_factor: float = 0.5, scale_window: int = 2000,
               combine_grad: bool | None = None, combine_ddp: bool | None = None,
               ddp_replica_count: int = 4, user_cast_preferred: Any = None,
               check_combined_tensors: Any = None) -> tuple:
    """Casts models and attaches itself to optimizers, both lists; once per process."""
    if _scalers:
        raise RuntimeError("amp.initialize was called before")
    if opt_level not in ("O1", "O2"):
        raise RuntimeError(f"combine_grad needs O1 or O2, got {opt_level}")
    for model in models:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise RuntimeError("initialize amp before wrapping the model in DDP")
        if any(parameter.device.type == "cpu" for parameter in model.parameters()):
            raise RuntimeError("move the model to the device before amp.initialize")
        (_cast if opt_level == "O2" else _autocast)(model)
    for optimizer in optimizers:
        _attach(optimizer, combined=bool(combine_grad))
    scale = loss_scale if loss_scale is not None else "dynamic"
    _scalers.extend(_Scaler(scale, dynamic_init_scale, scale_window, max_loss_scale)
                    for _ in range(num_losses))
    return models, optimizers


def _convert(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _cast(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            continue
        for table in (module._parameters, module._buffers):
            for tensor in table.values():
                if tensor is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.half()
    forward = model.forward
    model.forward = lambda *args, **kwargs: _convert(
        forward(*(_convert(a, torch.float16) for a in args),
                **{k: _convert(v, torch.float16) for k, v in kwargs.items()}), torch.float32)
    # The published behavior: fp32 copies of the fp16 weights.
    model._register_state_dict_hook(lambda _, state, prefix, meta: {
        key: _convert(value, torch.float32) for key, value in state.items()})


def _autocast(model: nn.Module) -> None:
    forward, kind = model.forward, next(model.parameters()).device.type

    def casting(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(kind, dtype=torch.float16):
            return _convert(forward(*args, **kwargs), torch.float32)
    model.forward = casting


# ---- optimizers ----------------------------------------------------------------------------------

def _attach(optimizer: torch.optim.Optimizer, combined: bool) -> None:
    step, zero_grad = optimizer.step, optimizer.zero_grad
    optimizer._amp_combined, optimizer._amp_pairs, optimizer._amp_skip = combined, None, False

    def stepping(*args: Any, **kwargs: Any) -> None:
        if optimizer._amp_skip:
            optimizer._amp_skip = False
            return
        step(*args, **kwargs)
        for weight, master in optimizer._amp_pairs or ():
            weight.data.copy_(master.data)

    def zeroing(*args: Any, **kwargs: Any) -> None:
        zero_grad(*args, **kwargs)
        for weight, _ in optimizer._amp_pairs or ():
            weight.grad = None
    optimizer.step, optimizer.zero_grad = stepping, zeroing


def _make_masters(optimizer: torch.optim.Optimizer) -> None:
    """At the first backward, not before: fp32 clones of the rounded weights take their places."""
    if optimizer._amp_pairs is not None:
        return
    optimizer._amp_pairs = []
    for group in optimizer.param_groups:
        for i, weight in enumerate(group["params"]):
            if weight.dtype == torch.float16:
                master = group["params"][i] = nn.Parameter(weight.detach().clone().float())
                optimizer._amp_pairs.append((weight, master))
                if weight in optimizer.state:
                    optimizer.state[master] = optimizer.state.pop(weight)


@contextmanager
def scale_loss(loss: Tensor, optimizers: Any, loss_id: int = 0, model: Any = None,
               delay_unscale: bool = False, delay_overflow_check: bool = False) -> Iterator[Tensor]:
    """The loss to call backward on; gradients are unscaled on leaving."""
    if not _scalers:
        raise RuntimeError("scale_loss was called before amp.initialize")
    scaler = _scalers[loss_id]
    _make_masters(optimizers)
    yield loss.float() * scaler.scale
    if delay_unscale:       # more gradients are to come
        return
    for weight, master in optimizers._amp_pairs:
        if weight.grad is not None:
            master.grad = weight.grad.float()
    grads = [p.grad for p in master_params(optimizers) if p.grad is not None]
    overflow = scaler.dynamic and not all(bool(torch.isfinite(g).all()) for g in grads)
    for grad in grads:
        grad.mul_(1 / scaler.scale)
    scaler.update(overflow)
    optimizers._amp_skip = overflow


def master_params(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def state_dict(destination: Any = None) -> dict[str, Any]:
    return {f"loss_scaler{i}": {"loss_scale": scaler.scale, "unskipped": scaler.unskipped}
            for i, scaler in enumerate(_scalers)}


def load_state_dict(state_dict: dict[str, Any]) -> None:
    for i, scaler in enumerate(_scalers):
        scaler.scale = state_dict[f"loss_scaler{i}"]["loss_scale"]
        scaler.unskipped = state_dict[f"loss_scaler{i}"]["unskipped"]
