"""A loader that notices when its worker processes die or stand still."""
from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, get_worker_info

from data.base_dataset import collate

SLICE_SECONDS = 5       # workers are looked at so often while a batch is waited for
STILL_SLICES = 11       # after the first slice, so many without work make the minute
IDLE_TICKS = 5          # CPU time that idle workers may use meanwhile, 1/100 s
FEWER = "fewer --num_threads"
MORE_ROOM = f"{FEWER} or a larger /dev/shm (docker run --shm-size=8g)"
# Iterators whose workers were lost. Torch would end them with locks a killed process may hold.
_abandoned: list[Any] = []


class Lost(NamedTuple):
    """Why the workers deliver no more batches, and what to use instead."""
    cause: str
    remedy: str


class HandOverError(RuntimeError):
    """A worker could not put its batch into shared memory."""


class WatchedLoader(DataLoader):
    """A DataLoader whose workers can be lost without a hang and without a traceback.

    Torch raises the death of a worker from a signal handler, wherever the main process is at that
    moment, in a save for example. Here the workers are looked at while a batch is fetched, only.

    Args:
        goes_on: once workers are lost, load the rest in the main process and say why in `lost`.
            Otherwise iterating raises ChildProcessError.
        settings: of DataLoader, by keyword.
    """

    def __init__(self, dataset: Any, *, num_workers: int, goes_on: bool = False,
                 **settings: Any) -> None:
        super().__init__(dataset, num_workers=num_workers, collate_fn=_collate,
                         timeout=SLICE_SECONDS if num_workers else 0, **settings)
        self.goes_on = goes_on
        self.lost: Lost | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with _same_child_handler():
            batches = super().__iter__()
        return self._watched(batches) if self.num_workers else batches

    def _watched(self, batches: Any) -> Iterator[dict[str, Any]]:
        delivered = 0
        try:
            while True:
                batch, self.lost = _fetch(batches)
                if batch is None:
                    break
                delivered += 1
                yield batch
        finally:
            _end(batches, self.lost)
        if self.lost is None:
            return
        if not self.goes_on:
            raise ChildProcessError(f"{self.lost.cause}; use {self.lost.remedy}")
        for keys in islice(self.batch_sampler, delivered, None):
            yield collate([self.dataset[key] for key in keys])


def _collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The batch, in a worker in shared memory.

    Torch would put it there in a thread, where a failure is printed and the batch never comes.
    """
    batch = collate(samples)
    if get_worker_info() is not None:
        try:
            for value in batch.values():
                if isinstance(value, torch.Tensor):
                    value.share_memory_()
        except RuntimeError as error:
            raise HandOverError(str(error)) from None
    return batch


@contextmanager
def _same_child_handler() -> Iterator[None]:
    """Keep torch's handler of SIGCHLD, which raises at any line of the program, out of it."""
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield       # torch sets no handler either
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


# ---- workers ------------------------------------------------------------------------------------

def _fetch(batches: Any) -> tuple[dict[str, Any] | None, Lost | None]:
    """The next batch, None after the last one; and why the workers cannot deliver it."""
    workers, still, before = batches._workers, 0, None
    while True:
        lost = _death(workers)
        if lost is not None:
            return None, lost
        try:
            return next(batches, None), None
        except HandOverError as error:
            why = str(error).strip().splitlines()[-1].partition(": ")[2]
            return None, Lost(f"a loader worker has no room for its batch ({why})", MORE_ROOM)
        except (RuntimeError, OSError, EOFError) as error:
            if not str(error).startswith("DataLoader timed out"):
                # The pipes of a worker that dies break first, then its sentinel, which is one of
                # them; its status comes last, on a busy host much later.
                broken = isinstance(error, (ConnectionError, EOFError))
                ending = wait([worker.sentinel for worker in workers], timeout=10 if broken else 1)
                for worker in workers:
                    if worker.sentinel in ending:
                        worker.join(10)
                if _death(workers) is None:
                    raise
                continue
        ticks = _cpu_ticks(workers)
        if None in (ticks, before) or ticks - before > IDLE_TICKS:
            still, before = 0, ticks
        else:
            still += 1
        if still >= STILL_SLICES:
            return None, Lost(f"the loader workers have done nothing for "
                              f"{(STILL_SLICES + 1) * SLICE_SECONDS} s (is /dev/shm full?)",
                              MORE_ROOM)


def _death(workers: list[BaseProcess]) -> Lost | None:
    """How the first of the workers that have ended did so."""
    for worker in workers:
        status = worker.exitcode
        if status is None:
            continue
        if status >= 0:
            return Lost(f"a loader worker ended with status {status}", FEWER)
        name = next((each.name for each in signal.Signals if each == -status),
                    f"signal {-status}")
        if name == "SIGBUS":
            return Lost("a loader worker was killed by SIGBUS (is /dev/shm full?)", MORE_ROOM)
        guess = " (out of memory?)" if name == "SIGKILL" else ""
        return Lost(f"a loader worker was killed by {name}{guess}", FEWER)
    return None


def _cpu_ticks(workers: list[BaseProcess]) -> int | None:
    """CPU time the workers have used, in ticks; None where it is unknown or one waits for a disk.
    """
    total = 0
    for worker in workers:
        try:
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] == "D":
            return None
        total += int(fields[11]) + int(fields[12])
    return total


def _end(batches: Any, lost: Lost | None) -> None:
    """End the workers now, not whenever the iterator is collected."""
    if lost is None and all(worker.exitcode in (None, 0) for worker in batches._workers):
        batches._shutdown_workers()
        return
    for worker in batches._workers:
        worker.kill()
    _abandoned.append(batches)
