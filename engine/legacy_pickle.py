"""Tensors out of a module that was pickled whole in PyTorch's format before 1.6.

PyTorch opens such a file only by importing classes and calling functions that the file names, which
can run anything. Here every name stands for an empty class and nothing in the file is called: what
comes out are the parameters and buffers, written as a plain state dict.

The layout: pickles of a magic number, the protocol, the machine's sizes and the object, whose
tensors point to storages by key; a pickle of the keys; per key an int64 count and the raw values.
Source: PyTorch's torch/serialization.py, legacy format.
"""
from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from utils.files import MOST_EXPANSION

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_MODULES = 100_000
# Raw values are little-endian.
DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2",
          "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1",
          "ByteStorage": "u1", "BoolStorage": "?"}


class Inert:
    """Replaces every class and function a file names; ignores its arguments and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.state = args, {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


@dataclass
class StorageOf:
    """A tensor's values: key, element type as NumPy writes it, and how many there are."""
    key: str
    dtype: str
    count: int


@dataclass
class TensorOf:
    """A tensor as a view of a storage."""
    storage: StorageOf
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorOf:
    whole = all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride))
    if not isinstance(storage, StorageOf) or not whole or len(size) != len(stride):
        raise ValueError("a tensor is described in an unknown way")
    return TensorOf(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


# The only names that mean something; all are functions of this file or plain containers.
KNOWN = {("collections", "OrderedDict"): OrderedDict,
         ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
         ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
         ("torch._utils", "_rebuild_parameter"): _rebuild_parameter}


class _Reader(pickle._Unpickler):
    """An unpickler that imports nothing.

    The one in Python: that in C makes room for every index that a file may name, gigabytes of it.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get((module, name))
        # A class of its own per name, so that a storage's type can be told by it.
        return known if known is not None else type(name, (Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        kind = pid[0] if isinstance(pid, tuple) and pid else None
        if kind == "module":
            return pid[1]
        if kind == "storage" and len(pid) >= 5:
            dtype = DTYPES.get(getattr(pid[1], "__name__", ""))
            if dtype is None or not isinstance(pid[4], int):
                raise ValueError(f"a storage has the unknown type {pid[1]!r}")
            return StorageOf(str(pid[2]), dtype, pid[4])
        raise ValueError("an object is stored in an unknown way")


def holds_module(path: str | Path) -> bool:
    """Whether a file is a module pickled whole, rather than tensors by name."""
    with open(path, "rb") as file:
        try:
            if (_Reader(file).load(), _Reader(file).load()) != (MAGIC, PROTOCOL):
                return False
            _Reader(file).load()
            return isinstance(_Reader(file).load(), Inert)
        except Exception:   # arbitrary bytes make an unpickler raise anything
            return False


def read_legacy_module(path: str | Path) -> dict[str, Tensor]:
    """Parameters and buffers, by name, of the module that a file holds.

    Raises:
        ValueError: the file has another format, is damaged or holds no module.
    """
    with open(path, "rb") as file:
        try:
            root, storages = _read(file)
            tensors = dict(_walk(root))
            needed = sum(math.prod(value.size) * np.dtype(value.storage.dtype).itemsize
                         for value in tensors.values())
            if needed > MOST_EXPANSION * Path(path).stat().st_size:
                raise ValueError(f"its tensors would take {needed} bytes, more than "
                                 f"{MOST_EXPANSION} times the file's size")
            found = {name: _tensor(value, storages) for name, value in tensors.items()}
        except Exception as error:  # arbitrary bytes make an unpickler raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} must be an intact module pickled by PyTorch before 1.6 "
                             f"({reason})") from error
    if not found:
        raise ValueError(f"{path} holds no module with tensors")
    return found


def _read(file: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
    """The object, and the values of its storages by key."""
    if (_Reader(file).load(), _Reader(file).load()) != (MAGIC, PROTOCOL):
        raise ValueError("it does not begin with PyTorch's magic number")
    sizes = _Reader(file).load()
    if not sizes.get("little_endian", True):
        raise ValueError("it was written on a big-endian machine")
    reader = _Reader(file)
    root = reader.load()
    wanted = {value.storage.key: value.storage for _, value in _walk(root)}
    storages = {}
    for key in _Reader(file).load():
        if key not in wanted:
            raise ValueError(f"its storage {key} belongs to no tensor of the module")
        raw = file.read(8)
        if len(raw) < 8 or struct.unpack("<q", raw)[0] != wanted[key].count:
            raise ValueError(f"the length of its storage {key} is wrong")
        width = np.dtype(wanted[key].dtype).itemsize
        values = file.read(wanted[key].count * width)
        if len(values) < wanted[key].count * width:
            raise ValueError(f"it ends inside storage {key}")
        storages[key] = np.frombuffer(values, wanted[key].dtype)
    return root, storages


def _walk(root: Any) -> Iterator[tuple[str, TensorOf]]:
    """Names and tensors below a module, in the order of PyTorch's state dicts.

    A module may be the child of several, so that a small file can hold a tree without end.
    """
    waiting, seen = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if seen > MOST_MODULES:
            raise ValueError(f"it holds more than {MOST_MODULES} modules")
        if not isinstance(module, Inert) or "_parameters" not in module.state:
            raise ValueError("it holds no module")
        for table in ("_parameters", "_buffers"):
            for name, value in module.state[table].items():
                if isinstance(value, TensorOf):
                    yield f"{prefix}{name}", value
        children = [(f"{prefix}{name}.", child)
                    for name, child in module.state["_modules"].items() if child is not None]
        waiting += reversed(children)


def _tensor(value: TensorOf, storages: dict[str, np.ndarray]) -> Tensor:
    values = storages[value.storage.key]
    last = value.offset + sum((size - 1) * stride
                              for size, stride in zip(value.size, value.stride, strict=True))
    # A stride of 0 would let a small file ask for any amount of memory.
    if 0 not in value.size and (last >= len(values) or math.prod(value.size) > len(values)):
        raise ValueError("a tensor reaches beyond its storage")
    flat = torch.from_numpy(values.copy())
    return flat.as_strided(value.size, value.stride, value.offset).clone()
