"""`torch.npu`: cards, random state, memory and switches, under torch_npu's names."""
from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .. import memory, randomness, record
from . import amp, utils
from .streams import Event, Stream, current_stream, default_stream, set_stream, stream
from .switches import config, conv, matmul, set_compile_mode

__all__ = ["Event", "Stream", "amp", "config", "conv", "current_stream", "default_stream", "matmul",
           "set_compile_mode", "set_stream", "stream", "utils"]
_current = 0


# ---- cards --------------------------------------------------------------------------------------

def device_count() -> int:
    return int(os.environ.get("FACEZOO_NPU_CARDS", "1"))


def is_available() -> bool:
    return device_count() > 0


def is_initialized() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return False


def _index(device: Any) -> int:
    """Number of a card given as None, number, text or torch.device; RuntimeError if missing."""
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        device = device.index
    number = _current if device is None else int(device)
    if not 0 <= number < device_count():
        raise RuntimeError(f"Invalid device ID {number}: {device_count()} card(s) present")
    return number


def current_device() -> int:
    return _current


def set_device(device: Any) -> None:
    global _current
    _current = _index(device)
    record.note("set_device", _current)


class device:
    """Context in which another card is current; torch.load wants it for map_location."""

    def __init__(self, device: Any) -> None:
        self.number = _index(device)

    def __enter__(self) -> None:
        global _current
        self.before, _current = _current, self.number

    def __exit__(self, *exception: Any) -> None:
        global _current
        _current = self.before


def get_device_name(device: Any = None) -> str:
    _index(device)
    return utils.chip()


def is_bf16_supported() -> bool:
    return utils.is_support_inf_nan()


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


def synchronize(device: Any = None) -> None:
    record.note("synchronize")


# ---- random state -------------------------------------------------------------------------------

def manual_seed(seed: int) -> None:
    randomness.seed_with(int(seed))


def manual_seed_all(seed: int) -> None:
    randomness.seed_with(int(seed))


def get_rng_state(device: Any = "npu") -> Tensor:
    _index(device)
    return randomness.get()


def set_rng_state(new_state: Tensor, device: Any = "npu") -> None:
    _index(device)
    randomness.put(new_state)


# ---- memory -------------------------------------------------------------------------------------

def memory_allocated(device: Any = None) -> int:
    return memory.allocated()


def max_memory_allocated(device: Any = None) -> int:
    return memory.peak()


def reset_peak_memory_stats(device: Any = None) -> None:
    memory.reset_peak()


def empty_cache() -> None:
    """Nothing is cached here."""
