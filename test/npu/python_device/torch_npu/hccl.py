"""The process-group backend named hccl: gloo on the host values, with HCCL's refusals.

A group is registered for npu tensors only, as the real one is; objects travel as npu tensors.
"""
from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_leaves, tree_map

from . import tensor

_twins: list[tuple[Any, Any]] = []      # each hccl backend and a gloo group of the same processes
REDUCING = {torch.ops.c10d.allreduce_, torch.ops.c10d.reduce_, torch.ops.c10d.reduce_scatter_,
            torch.ops.c10d._reduce_scatter_base_}


def _create(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    backend = dist.ProcessGroupGloo(store, rank, size, timeout)
    twin = dist.ProcessGroup(store, rank, size)
    twin._set_default_backend(dist.ProcessGroup.BackendType.GLOO)
    twin._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, backend)
    _twins.append((backend, twin))
    return backend


def register() -> None:
    """Make the name known to torch.distributed."""
    dist.Backend.register_backend("hccl", _create, devices=["npu"])


def collective(function: Any, args: tuple, kwargs: dict) -> Any:
    """Run a collective of npu tensors on the gloo group that belongs to its hccl group."""
    if function.overloadpacket in REDUCING:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and leaf.dtype is torch.float64:
                raise RuntimeError("Unsupported data type for HCCL process group: torch.float64")
    args, kwargs = tree_map(_twin_of, (args, kwargs))
    return tensor.compute(function, args, kwargs)


def _twin_of(value: Any) -> Any:
    """The gloo group in place of an hccl one; RuntimeError for a group of another backend."""
    if not isinstance(value, torch.ScriptObject) or "ProcessGroup" not in str(value._type()):
        return value
    group = dist.ProcessGroup.unbox(value)
    if torch.device("npu") not in group._device_types:
        raise RuntimeError("No backend type associated with device type npu")
    backend = group._get_backend(torch.device("npu"))
    return next(twin for known, twin in _twins if known is backend).boxed()
