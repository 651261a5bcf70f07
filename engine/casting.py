"""Casting networks and their inputs to a low precision, for O1 and O2."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine import device as devices

NORMS_WITHOUT_HALF = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm,
                      nn.GroupNorm, nn.LayerNorm)


def convert(value: Any, dtype: torch.dtype) -> Any:
    """Cast the floating tensors inside nested lists, tuples and dicts; the rest stays."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: convert(item, dtype) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [convert(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class LowPrecision(nn.Module):
    """Run a network in a low precision; outputs come back as fp32, so losses are fp32.

    Args:
        autocast: O1, operators choose their type; otherwise O2, inputs are cast to `dtype`.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, device_type: str,
                 autocast: bool) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        self.device_type, self.autocast = device_type, autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.autocast:
            with torch.autocast(self.device_type, dtype=self.dtype):
                outputs = self.network(*args, **kwargs)
        else:
            outputs = self.network(*convert(args, self.dtype), **convert(kwargs, self.dtype))
        return convert(outputs, torch.float32)


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine


def _is_island(module: nn.Module, keep: str, device: torch.device) -> bool:
    """Whether the module computes in fp32 between an input and an output of low precision."""
    if keep == "apex" or _is_batch_norm(module):
        return False
    return (isinstance(module, NORMS_WITHOUT_HALF) or getattr(module, "fp32_island", False)
            or (isinstance(module, nn.PReLU) and devices.lacks_half_prelu(device)))


def _has_spectral_norm(module: nn.Module) -> bool:
    return hasattr(module, "weight_orig") and hasattr(module, "weight_u")


def cast_network(network: nn.Module, dtype: torch.dtype, keep: str,
                 device: torch.device) -> None:
    """Turn a network's weights and buffers into `dtype`, in place, as O2 does.

    Args:
        keep: "apex" keeps only affine batch norms in fp32; "safe" also other norms, the power
            iteration of spectral norm, PReLU on the NPU and modules with `fp32_island = True`.

    A network with `fp32_network = True` stays as it is; its model calls it without the wrapper.
    """
    if getattr(network, "fp32_network", False):
        return
    for module in network.modules():
        if _is_batch_norm(module):
            continue
        if _is_island(module, keep, device):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (convert(args, torch.float32),
                                         convert(kwargs, torch.float32)), with_kwargs=True)
            module.register_forward_hook(lambda _, args, outputs: convert(outputs, dtype))
            continue
        spectral = keep != "apex" and _has_spectral_norm(module)
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None or not tensor.is_floating_point() or (
                        spectral and name in ("weight_orig", "weight_u", "weight_v")):
                    continue
                tensor.data = tensor.data.to(dtype)
        if spectral:    # runs after the hook that divides by the largest singular value
            module.register_forward_pre_hook(
                lambda owner, _: setattr(owner, "weight", owner.weight.to(dtype)))
