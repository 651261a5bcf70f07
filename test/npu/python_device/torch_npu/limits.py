"""What the real device refuses: mixed devices, channels-last, bf16 where its kernels have none.

Source: behavior of torch_npu 2.13 and the vendor's table of data types (A2 and A3 cards).
"""
from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# Copies between devices, and indices, which may lie on the host.
MAY_MIX = {aten.copy_, aten._copy_from, aten._to_copy, aten._foreach_copy_, aten.index,
           aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
WITHOUT_BF16 = ("native_batch_norm", "_native_batch_norm_legit", "batch_norm_stats",
                "batch_norm_elemt", "_prelu_kernel", "reflection_pad", "replication_pad",
                "grid_sampler")
_warned = []


def warn_about_float64() -> None:
    """Say once that the device has no double precision."""
    if not _warned:
        _warned.append(True)
        warnings.warn("Device do not support double dtype now, dtype cast replace with float.",
                      stacklevel=2)


def check(function: Any, args: tuple, kwargs: dict) -> None:
    """Raise RuntimeError where the real device would."""
    if kwargs.get("memory_format") in (torch.channels_last, torch.channels_last_3d):
        raise RuntimeError("NPU tensors support only the contiguous and preserve memory formats, "
                           "got channels_last")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if function.namespace == "aten" and function.overloadpacket not in MAY_MIX:
        for tensor in tensors:
            if tensor.device.type == "cpu" and tensor.dim():
                raise RuntimeError(f"Expected all tensors to be on the same device, but found at "
                                   f"least two devices, npu:0 and cpu! ({function})")
    if any(tensor.dtype is torch.bfloat16 for tensor in tensors) and _lacks_bf16(function, args):
        raise RuntimeError(f"{function}: not implemented for DT_BFLOAT16")


def _lacks_bf16(function: Any, args: tuple) -> bool:
    name = function.overloadpacket.__name__
    if name in ("convolution", "convolution_backward"):
        return bool(args[6 if name == "convolution" else 7])       # transposed
    return name.startswith(WITHOUT_BF16)
