"""Batches that are on the device before they are asked for."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import torch

from engine import device as devices


class Prefetcher:
    """Iterate over batches that are already on the device.

    On a card the next batch is copied and prepared on a side stream while the current step runs; on
    the CPU batches are prepared as they come. `wait_seconds` sums the time the host waited for the
    loader, the figure that tells whether more workers are needed.

    Args:
        loader: yields dicts; tensors among the values travel, the rest passes through.
        prepare: called with the batch on the device, e.g. to turn uint8 images into floats.
    """

    def __init__(self, loader: Iterable[dict], device: torch.device,
                 prepare: Callable[[dict], dict]) -> None:
        self.loader, self.device, self.prepare = loader, device, prepare
        self.wait_seconds = 0.0
        self._stream = devices.side_stream(device)

    def __iter__(self) -> Iterator[dict]:
        batches = iter(self.loader)
        try:
            following = self._load(batches)
            while following is not None:
                batch = self._hand_over(following)
                # On a card the next copy is queued before the caller's step, so that both overlap;
                # on the CPU nothing would, and the batch is fetched when it is needed.
                following = self._load(batches) if self._stream is not None else None
                yield batch
                if self._stream is None:
                    following = self._load(batches)
        finally:    # worker processes end now, not whenever the iterator is collected
            getattr(batches, "close", lambda: None)()

    def _load(self, batches: Iterator[dict]) -> dict | None:
        began = time.perf_counter()
        batch = next(batches, None)
        self.wait_seconds += time.perf_counter() - began
        if batch is None:
            return None
        if self._stream is None:
            return self.prepare(batch)
        with devices.module_of(self.device).stream(self._stream):
            moved = {key: value.to(self.device, non_blocking=True)
                     if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            return self.prepare(moved)

    def _hand_over(self, batch: dict) -> dict:
        if self._stream is not None:
            current = devices.module_of(self.device).current_stream()
            current.wait_stream(self._stream)
            for value in batch.values():
                if isinstance(value, torch.Tensor):
                    value.record_stream(current)    # its memory is not reused while in use here
        return batch
