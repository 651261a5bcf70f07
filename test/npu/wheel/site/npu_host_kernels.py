"""aten kernels of the simulated card: each operator's CPU kernel, run on the card's own bytes.

`register` overrides every aten kernel that torch_npu has for its device and the CPU has as well.
torch_npu's dispatch, autograd formulas, autocast lists, generators, streams and optimizers are
unchanged. What the CPU kernel would allow and an Ascend card refuses is refused here: see
`check_devices`, `check_bfloat16` and `to_copy`.

With the name of a first-generation chip (FACEZOO_NPU_SOC=Ascend910A) results saturate: NaN
becomes 0, infinity the largest number, and the chip's overflow flag is raised.
"""
from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

# These only make or describe memory; torch_npu's own code does that on our malloc.
KEPT = {"empty", "empty_like", "empty_strided", "new_empty_strided", "empty_with_format",
        "empty_with_swapped_memory", "unsafe_empty_with_format", "as_strided", "view",
        "_reshape_alias", "resize_", "resize_as_", "set_", "unfold", "_local_scalar_dense",
        "is_pinned", "_pin_memory", "record_stream", "is_set_to", "copy_memory_"}
# Index tensors may stay on the host, as on a real card.
HOST_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index",
                "_unsafe_index_put"}
# No bf16 kernel according to the operator documents of torch_npu 2.13 for A2 and A3 cards.
NO_BFLOAT16 = ("native_batch_norm", "_native_batch_norm_legit", "_batch_norm",
               "batch_norm_", "reflection_pad", "replication_pad", "grid_sampler",
               "_prelu_kernel")
# Computed in fp32 and rounded once, as the card's matrix unit does, where the CPU's own 16-bit
# kernels would take seconds. Small operands stay with those: recorded numbers come from them.
ACCUMULATING = {"convolution", "convolution_backward", "mm", "bmm", "addmm", "baddbmm"}
MIN_ACCUMULATING_NUMEL = 1 << 12
HALF = (torch.float16, torch.bfloat16)
OFFSET_STEP = 4     # random numbers advance the generator's Philox offset
_libraries: list[torch.library.Library] = []     # must stay alive as long as the kernels


# ---- the same bytes, seen by the CPU -------------------------------------------------------------

def host_view(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over the memory of a tensor on the card; valid while that one lives."""
    storage = tensor.untyped_storage()
    size = storage.nbytes()
    if not size or not tensor.numel():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * size).from_address(storage.data_ptr())
    raw = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(raw, tensor.storage_offset(), tensor.size(), tensor.stride())


def on_card(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "npu"


def to_card(result: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the card with the value and strides of a CPU tensor."""
    if result.is_conj() or result.is_neg():
        result = result.resolve_conj().resolve_neg()
    fresh = torch.empty_strided(result.size(), result.stride(), dtype=result.dtype, device=device)
    host_view(fresh).copy_(result)
    return fresh


class Call:
    """One operator call: arguments to the host, results back to the card."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}   # by id of the host tensor
        self.device: torch.device | None = None
        self.on_host: list[torch.Tensor] = []

    def to_host(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            self.device = self.device or value
            return torch.device("cpu")
        if isinstance(value, torch.Generator):
            return None
        if not isinstance(value, torch.Tensor):
            return value
        if not on_card(value):
            self.on_host.append(value)
            return value
        self.device = value.device
        host = host_view(value)
        self.pairs[id(host)] = (value, host)
        return host

    def to_device(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in self.pairs:
            return self.pairs[id(value)][0]
        return to_card(value, self.device)

    def check_devices(self) -> None:
        """Mixed devices are refused, but for numbers wrapped in a 0-dim tensor and for indices."""
        if self.name.split(".")[0] in HOST_INDICES:
            return
        if self.pairs and any(tensor.dim() for tensor in self.on_host):
            raise RuntimeError(
                f"aten::{self.name}: Expected all tensors to be on the same device, but found at "
                f"least two devices, {self.device} and cpu!")

    def check_bfloat16(self, args: tuple) -> None:
        transposed = self.name == "convolution" and args[6]
        if (transposed or self.name.startswith(NO_BFLOAT16)) and any(
                given.dtype is torch.bfloat16 for given, _ in self.pairs.values()):
            raise RuntimeError(f"aten::{self.name}: DT_BFLOAT16 is not supported on this card")

    def write_back(self) -> None:
        """Where an `out=` tensor was resized on the host, resize the one on the card too."""
        for given, host in self.pairs.values():
            if given.size() != host.size():
                given.resize_(host.size())
                host_view(given).copy_(host)


# ---- random numbers ------------------------------------------------------------------------------

def draw(operator: Callable, generator: torch.Generator | None, device: torch.device,
         args: tuple, kwargs: dict) -> Any:
    """Run a random operator with the CPU's generator seeded from the card's state.

    The card's state is 16 bytes, seed and offset; the offset advances with every call.
    """
    number = device.index if device.index is not None else torch.npu.current_device()
    generator = generator or torch.npu.default_generators[number]
    state = generator.get_state()
    words = state.view(torch.int64)
    seed, offset = int(words[0]), int(words[1])
    host, saved = torch.default_generator, torch.default_generator.get_state()
    try:
        host.manual_seed((seed + offset * 0x9E3779B97F4A7C15) % 2 ** 63)
        return operator(*args, **kwargs)
    finally:
        host.set_state(saved)
        words[1] = offset + OFFSET_STEP
        generator.set_state(state)


# ---- first-generation chips ----------------------------------------------------------------------

def overflow_flag() -> ctypes.c_int32:
    """The simulated chip's flag; torch_npu clears it through libascendcl.so."""
    return ctypes.c_int32.in_dll(ctypes.CDLL("libascendcl.so"), "host_runtime_overflow")


@functools.cache     # asked at the first kernel: the answer needs an initialized card
def saturation() -> Callable[[Any], Any] | None:
    """What a chip without inf and NaN does to a result, or None on later ones."""
    if torch.npu.utils.is_support_inf_nan():
        return None
    flag = overflow_flag()

    def saturate(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() and \
                not bool(torch.isfinite(value).all()):
            flag.value = 1
            torch.nan_to_num_(value, nan=0.0)
        return value
    return saturate


# ---- kernels -------------------------------------------------------------------------------------

def aligned(value: Any) -> Any:
    """Some CPU kernels round differently on memory that does not start at a cache line, such as
    NpuFusedAdam's parts of one buffer; a card aligns what it reads itself."""
    unaligned = isinstance(value, torch.Tensor) and value.data_ptr() % 64
    return value.clone() if unaligned else value


def accumulate(operator: Callable, args: tuple, kwargs: dict) -> Any:
    """Run an operator on large 16-bit tensors in fp32 and round its results once."""
    kinds = {value.dtype for value in args if isinstance(value, torch.Tensor)} & set(HALF)
    largest = max(value.numel() for value in args if isinstance(value, torch.Tensor))
    if not kinds or largest < MIN_ACCUMULATING_NUMEL:
        return operator(*args, **kwargs)
    kind = kinds.pop()
    in_float32 = [value.float() if isinstance(value, torch.Tensor) and value.dtype is kind
                  else value for value in args]
    return tree_map(lambda value: value.to(kind) if isinstance(value, torch.Tensor) else value,
                    operator(*in_float32, **kwargs))


def make_kernel(operator: torch._ops.OpOverload, name: str) -> Callable:
    """The kernel that runs an operator's CPU version on memory of the card."""
    random = torch.Tag.nondeterministic_seeded in operator.tags
    # Batch norm writes to its running statistics although its schema does not say so.
    writes = operator._schema.is_mutable or "batch_norm" in name

    def kernel(*args: Any, **kwargs: Any) -> Any:
        call = Call(name)
        generator = next((value for value in [*args, *kwargs.values()]
                          if isinstance(value, torch.Generator)), None)
        host_args = tree_map(call.to_host, args)
        host_kwargs = {key: tree_map(call.to_host, value) for key, value in kwargs.items()
                       if key != "pin_memory"}
        call.check_devices()
        call.check_bfloat16(args)
        if not writes:
            host_args = tree_map(aligned, host_args)
        if random:
            result = draw(operator, generator, call.device, host_args, host_kwargs)
        elif name in ACCUMULATING:
            result = accumulate(operator, host_args, host_kwargs)
        else:
            result = operator(*host_args, **host_kwargs)
        if (saturate := saturation()) is not None:
            tree_map(saturate, result)
        call.write_back()
        return tree_map(call.to_device, result)
    return kernel


def copy_(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Copies in every direction; broadcasts and casts as the CPU does."""
    to = host_view(target) if on_card(target) else target
    to.copy_(host_view(source) if on_card(source) else source)
    return target


def copy_from(source: torch.Tensor, target: torch.Tensor,
              non_blocking: bool = False) -> torch.Tensor:
    return copy_(target, source)


def copy_from_and_resize(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return copy_(target.resize_(source.size()), source)


def to_copy(tensor: torch.Tensor, *, dtype: torch.dtype | None = None,
            layout: torch.layout | None = None, device: torch.device | None = None,
            pin_memory: bool | None = None, non_blocking: bool = False,
            memory_format: torch.memory_format | None = None) -> torch.Tensor:
    """A copy with another type or place.

    As on a card, a cast to float64 there gives float32 with a warning, and there is no
    channels-last layout.
    """
    device = device or tensor.device
    if device.type == "npu" and on_card(tensor) and dtype is torch.float64 and \
            tensor.dtype is not torch.float64:
        warnings.warn("Device do not support double dtype now, dtype cast replace with float.")
        dtype = torch.float32
    layout_asked = memory_format or torch.preserve_format
    host = host_view(tensor) if on_card(tensor) else tensor
    if device.type != "npu":
        made = torch.empty_like(host, dtype=dtype, memory_format=layout_asked,
                                pin_memory=bool(pin_memory))
        return made.copy_(host)
    refuse_channels_last(layout_asked)
    if layout_asked is torch.contiguous_format:
        host = host.contiguous()
    strides = torch.empty_like(host, memory_format=torch.preserve_format).stride()
    made = torch.empty_strided(host.size(), strides, dtype=dtype or tensor.dtype, device=device)
    return copy_(made, host)


def check_and_unscale(grads: list[torch.Tensor], found_inf: torch.Tensor,
                      inverse_scale: torch.Tensor) -> None:
    """Scale gradients back; on first-generation chips the flag tells what the values hide."""
    found = host_view(found_inf)
    torch._amp_foreach_non_finite_check_and_unscale_([host_view(grad) for grad in grads], found,
                                                     host_view(inverse_scale))
    if saturation() is not None and overflow_flag().value:
        found.fill_(1)


def refuse_channels_last(layout: torch.memory_format) -> None:
    """torch_npu's own kernels allow the contiguous layout only."""
    if layout in (torch.channels_last, torch.channels_last_3d):
        raise RuntimeError("Only c10::MemoryFormat::Contiguous is supported for creating a npu "
                           "tensor")


def contiguous(tensor: torch.Tensor, *,
               memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    refuse_channels_last(memory_format)
    return torch.ops.aten.contiguous.default.decompose(tensor)


WRITTEN = {"copy_": copy_, "_copy_from": copy_from, "_copy_from_and_resize": copy_from_and_resize,
           "_to_copy": to_copy,
           "_amp_foreach_non_finite_check_and_unscale_": check_and_unscale}


# ---- registration --------------------------------------------------------------------------------

def find_operator(qualified: str) -> torch._ops.OpOverload | None:
    """`aten::add.Tensor` -> torch.ops.aten.add.Tensor; None where torch does not have it."""
    name, _, overload = qualified.removeprefix("aten::").partition(".")
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, overload or "default", None) if packet is not None else None


def is_view(operator: torch._ops.OpOverload) -> bool:
    """Whether a result shares memory with an argument that is not written to."""
    return any(result.alias_info is not None and not result.alias_info.is_write
               for result in operator._schema.returns)


def register() -> int:
    """Put the kernels in place, once per process; returns how many."""
    if _libraries:
        return 0
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    names = torch._C._dispatch_get_registrations_for_dispatch_key
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    count = 0
    for qualified in {*names("PrivateUse1"), *(f"aten::{name}" for name in WRITTEN)}:
        name = qualified.removeprefix("aten::")
        operator = find_operator(qualified) if qualified.startswith("aten::") else None
        if operator is None or name.split(".")[0] in KEPT:
            continue
        if name in WRITTEN:
            kernel = WRITTEN[name]
        elif is_view(operator) or \
                not torch._C._dispatch_has_computed_kernel_for_dispatch_key(qualified, "CPU"):
            continue
        elif has_kernel(qualified, "CompositeImplicitAutograd"):
            kernel = contiguous if name == "contiguous" else operator.decompose
        else:
            kernel = make_kernel(operator, name)
        library.impl(name, kernel, "PrivateUse1", allow_override=True)
        count += 1
    for qualified in names("AutogradPrivateUse1"):
        if qualified.startswith("aten::") and has_kernel(qualified, "CompositeImplicitAutograd"):
            name = qualified.removeprefix("aten::")
            kernel = contiguous if name == "contiguous" else find_operator(qualified).decompose
            library.impl(name, kernel, "AutogradPrivateUse1", allow_override=True)
    return count
