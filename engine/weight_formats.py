"""Read weight files of every format that people have, without executing anything in them.

What a file is shows in its first bytes, whatever its name says. No file takes much more memory
than it has bytes; the limit is `utils.files.MOST_EXPANSION` times its size.
"""
from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import device as devices
from engine import integrity
from utils.files import check_expansion

devices.know_pickled_tensors()
# What people take for weights, by how it begins (in lower case, without leading white space).
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights; run `git lfs pull`",
    b"<": "a web page, not the weights; download the file itself",
    b"\x1f\x8b": "packed by gzip; unpack it first",
    b"rar!": "a RAR archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x89hdf": "an HDF5 file (Keras?), not PyTorch weights",
    b"\x93numpy": "a NumPy file, not PyTorch weights",
    b"\x89png": "an image, not weights",
    b"\xff\xd8\xff": "an image, not weights",
}


def read_file(path: Path, mmap: bool = False) -> Any:
    """Content of a weight file, on the CPU: PyTorch's formats, whole or as a zip, or safetensors.

    Args:
        mmap: leave the numbers in the file, where its format allows that, else raise.

    Raises:
        ValueError: damaged, something else, too large once unpacked, or code in a pickle.
    """
    with open(path, "rb") as file:
        head = file.read(512)
        size = file.seek(0, 2)
    if _is_safetensors(head, size):
        return _read_safetensors(path)
    start = head.lstrip().lower()
    other = next((what for mark, what in _OTHERS.items() if start.startswith(mark)), None)
    if other:
        raise ValueError(f"{path} is {other}")
    integrity.check(path)
    check_expansion(path)
    try:
        if mmap:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with open(path, "rb") as file:      # torch would go by a file's name
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if head[:2] in (b"PK", b"\x80\x02"):
            first = str(error).split("\n")[0]
            raise ValueError(f"{path} holds objects other than tensors and plain values, which are "
                             f"not loaded because that can run code from the file ({first})"
                             ) from error
        raise ValueError(f"{path} is not a PyTorch checkpoint") from error
    except Exception as error:      # arbitrary bytes make an unpickler raise anything
        raise ValueError(f"{path} is damaged or no PyTorch checkpoint "
                         f"({str(error).splitlines()[0] if str(error) else 'it is empty'})"
                         ) from error


def _is_safetensors(head: bytes, size: int) -> bool:
    """The length of a JSON header, which lies within the file, then the header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
