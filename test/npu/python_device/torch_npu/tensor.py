"""Tensors on the device: a subclass that carries a CPU tensor and claims to be on npu:0."""
from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from . import limits, memory, randomness, record

_DEVICE = None


def device() -> torch.device:
    """npu:0; made late, because the name exists only after registration."""
    global _DEVICE
    _DEVICE = _DEVICE or torch.device("npu", 0)
    return _DEVICE


class NpuTensor(Tensor):
    """A tensor on npu:0 whose values are in `host`, a CPU tensor."""
    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> NpuTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, layout=host.layout, device=device())
        tensor.host = host
        memory.track(tensor, host)
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        return run(function, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({self.host.tolist()}, device='npu:0', dtype={self.dtype}{grad})"

    # Assigning `data` swaps the implementation in C++, which knows nothing of `host`.
    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, NpuTensor):
            raise RuntimeError("incompatible tensor type: npu tensor's data set to one on "
                               f"{new.device}")
        Tensor.data.__set__(self, new)
        self.host = new.host
        memory.track(self, new.host)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("only tensors made by the user (graph leaves) can be deep-copied")
        if id(self) not in memo:
            copied = NpuTensor(self.host.clone()).requires_grad_(self.requires_grad)
            copied.grad = copy.deepcopy(self.grad, memo)
            copied._is_param = getattr(self, "_is_param", False)
            memo[id(self)] = copied
        return memo[id(self)]

    def record_stream(self, stream: Any) -> None:
        record.note("record_stream", stream.stream_id)

    def tolist(self) -> Any:
        return self.host.tolist()

    def is_pinned(self, device: Any = None) -> bool:
        return False

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert npu:0 device type tensor to numpy. Use Tensor.cpu() to copy "
                        "the tensor to host memory first.")


def run(function: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operator on the tensors' host values, with the refusals of the real device."""
    limits.check(function, args, kwargs)
    if _is_composite(function):     # arrives whole in inference mode, where autograd is left out
        return function.decompose(*args, **kwargs)
    by_hand = BY_HAND.get(function.overloadpacket)
    if by_hand is not None:
        return by_hand(function, *args, **kwargs)
    return compute(function, args, kwargs)


@functools.cache
def _is_composite(function: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(),
                                                          "CompositeImplicitAutograd")


def compute(function: Any, args: tuple, kwargs: dict, on_host: bool = False) -> Any:
    """Call an operator with host tensors in place of the device's; wrap what it returns.

    Args:
        on_host: leave results unwrapped.
    """
    originals = {id(leaf.host): leaf for leaf in tree_leaves((args, kwargs))
                 if isinstance(leaf, NpuTensor)}
    host_args, host_kwargs = tree_map(_to_host, (args, kwargs))
    host_kwargs.pop("pin_memory", None)
    # Batch norm and collectives write to arguments although their schemas do not say so.
    if function.namespace == "aten" and not (
            function._schema.is_mutable or function.is_view or "batch_norm" in function.name()):
        host_args = tree_map(_aligned, host_args)
    with randomness.on_card(function):
        call = _in_fp32 if function.overloadpacket in CUBE else _plainly
        results = call(function, host_args, host_kwargs)
    if on_host:
        return results

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        original = originals.get(id(value))
        if original is None:
            if function.is_view and not value.is_inference():
                with torch.inference_mode(False):   # views of normal tensors are normal ones
                    return NpuTensor(value)
            return NpuTensor(value)
        if original.size() != value.size() or original.stride() != value.stride():
            original.data = NpuTensor(value)        # resize_ and its like
        return original
    return tree_map(wrap, results)


def _aligned(value: Any) -> Any:
    """Some CPU kernels round differently on memory that does not start at a cache line, such as
    NpuFusedAdam's parts of one buffer; a card aligns what it reads itself."""
    unaligned = isinstance(value, Tensor) and value.data_ptr() % 64
    return value.clone() if unaligned else value


def _plainly(function: Any, args: tuple, kwargs: dict) -> Any:
    return function(*args, **kwargs)


def _in_fp32(function: Any, args: tuple, kwargs: dict) -> Any:
    """Compute in fp32 and round the result to the inputs' low type, as a matrix unit does.

    Only large inputs, for which the CPU's fp16 convolutions are some 15 times slower; small ones
    keep the CPU kernels that recorded values of mixed precision were made with.
    """
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    low = next((t.dtype for t in tensors if t.dtype in (torch.float16, torch.bfloat16)), None)
    if low is None or max(t.numel() for t in tensors) < LARGE:
        return function(*args, **kwargs)

    def cast(value: Any, dtype: torch.dtype) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) else value
    results = function(*tree_map(lambda value: cast(value, torch.float32), args), **kwargs)
    return tree_map(lambda value: cast(value, low), results)


def _to_host(value: Any) -> Any:
    if isinstance(value, NpuTensor):
        return value.host
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value


LARGE = 1 << 12        # elements
CUBE = {torch.ops.aten.convolution, torch.ops.aten.convolution_backward, torch.ops.aten.mm,
        torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm}


# ---- operators in which devices meet -------------------------------------------------------------

def _copy(function: Any, target: Tensor, source: Tensor, *args: Any) -> Tensor:
    _to_host(target).copy_(_to_host(source))
    return target


def _copy_from(function: Any, source: Tensor, target: Tensor, *args: Any) -> Tensor:
    return _copy(function, target, source)


def _foreach_copy(function: Any, targets: list[Tensor], sources: list[Tensor], *args: Any) -> None:
    for target, source in zip(targets, sources, strict=True):
        _copy(function, target, source)


def _convert(function: Any, tensor: Tensor, **kwargs: Any) -> Tensor:
    """`_to_copy`: to the device always contiguous, from it in whatever layout was asked for."""
    kwargs.pop("non_blocking", None)
    kwargs.pop("pin_memory", None)
    target = torch.device(kwargs.pop("device", None) or tensor.device)
    if isinstance(tensor, NpuTensor) and target.type != "cpu":
        if kwargs.get("dtype") is torch.float64:
            limits.warn_about_float64()
            kwargs["dtype"] = torch.float32
        return compute(function, (tensor,), kwargs)
    copied = function(_to_host(tensor), **kwargs)
    return copied if target.type == "cpu" else NpuTensor(copied.contiguous())


def _collective(function: Any, *args: Any, **kwargs: Any) -> Any:
    from . import hccl
    return hccl.collective(function, args, kwargs)


def _overloads(names: list[str], handler: Callable) -> Iterator[tuple[Any, Callable]]:
    for name in names:
        space, operator = name.split(".")
        yield getattr(getattr(torch.ops, space), operator), handler


BY_HAND: dict[Any, Callable] = dict([
    *_overloads(["aten.copy_"], _copy), *_overloads(["aten._copy_from"], _copy_from),
    *_overloads(["aten._foreach_copy_"], _foreach_copy), *_overloads(["aten._to_copy"], _convert),
    *_overloads(["c10d.allreduce_", "c10d.broadcast_", "c10d.allgather_", "c10d._allgather_base_",
                 "c10d.reduce_", "c10d.barrier", "c10d.gather_", "c10d.scatter_",
                 "c10d.alltoall_base_", "c10d._reduce_scatter_base_", "c10d.reduce_scatter_",
                 "c10d.allgather_into_tensor_coalesced_", "c10d.alltoall_"], _collective)])
