"""The device's generator: a seed and an offset, 16 bytes, as the real one stores them."""
from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

PER_CALL = 4        # the real generator advances its offset by so much for each random operator
_state = {"seed": 0, "offset": 0}


def seed_with(seed: int) -> None:
    """Restart the generator."""
    _state.update(seed=seed % 2 ** 64, offset=0)


def get() -> Tensor:
    """The state, uint8 (16,) on the CPU."""
    return torch.frombuffer(bytearray(struct.pack("<QQ", _state["seed"], _state["offset"])),
                            dtype=torch.uint8)


def put(state: Tensor) -> None:
    """Put back what `get` returned."""
    if state.dtype != torch.uint8 or state.numel() != 16:
        raise TypeError("RNG state must be a torch.ByteTensor of 16 elements")
    _state["seed"], _state["offset"] = struct.unpack("<QQ", bytes(state.tolist()))


@contextlib.contextmanager
def on_card(function: Any) -> Iterator[None]:
    """Let a random operator draw from the card's generator instead of the host's."""
    if torch.Tag.nondeterministic_seeded not in function.tags:
        yield
        return
    host = torch.get_rng_state()
    torch.default_generator.manual_seed((_state["seed"] * 1_000_003 + _state["offset"]) % 2 ** 63)
    _state["offset"] += PER_CALL
    try:
        yield
    finally:
        torch.set_rng_state(host)
