"""Page-locked memory: plain copies that remember to be pinned."""
from __future__ import annotations

import weakref

import torch
from torch import Tensor

from . import record

# By identity: tensors compare element by element.
_pinned: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()


def _pin(self: Tensor, device: object = None) -> Tensor:
    if self.device.type != "cpu":
        raise RuntimeError(f"cannot pin '{self.type()}' only dense CPU tensors can be pinned")
    if self.is_pinned():
        return self
    copied = self.clone()
    _pinned[id(copied)] = copied
    record.note("pin_memory", tuple(self.shape))
    return copied


def _is_pinned(self: Tensor, device: object = None) -> bool:
    return _pinned.get(id(self)) is self


def patch() -> None:
    """Replace the methods, which ask a C++ allocator that this device does not have."""
    Tensor.pin_memory = _pin
    Tensor.is_pinned = _is_pinned
    # Asked by loaders that pin in a thread of their own.
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.set_device_index = lambda index: None
