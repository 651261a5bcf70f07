"""Bytes held by tensors of the device, each storage counted once."""
from __future__ import annotations

import weakref

from torch import Tensor

_users: dict[int, list[int]] = {}       # address of a storage: its bytes, tensors that use it
_total = {"now": 0, "peak": 0}


def track(tensor: Tensor, host: Tensor) -> None:
    """Count the storage of `host` for as long as `tensor` lives."""
    storage = host.untyped_storage()
    address, size = storage.data_ptr(), storage.nbytes()
    entry = _users.setdefault(address, [size, 0])
    if not entry[1]:
        _total["now"] += entry[0]
        _total["peak"] = max(_total["peak"], _total["now"])
    entry[1] += 1
    weakref.finalize(tensor, _release, address).atexit = False


def _release(address: int) -> None:
    entry = _users[address]
    entry[1] -= 1
    if not entry[1]:
        _total["now"] -= entry[0]
        del _users[address]


def allocated() -> int:
    """Bytes in use."""
    return _total["now"]


def peak() -> int:
    """Largest number of bytes in use since the start or the last `reset_peak`."""
    return _total["peak"]


def reset_peak() -> None:
    """Begin a new peak at what is in use now."""
    _total["peak"] = _total["now"]
