"""One thread per network, in whose batches the faces of different requests lie side by side."""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

# Images as the network takes them to restored faces, uint8 (N, S, S, 3), in the same order.
Restore = Callable[[Sequence[np.ndarray]], np.ndarray]


class _Job:
    """The images of one request; `given` were handed to the network, `restored` came back."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images, self.given = images, 0
        self.restored: dict[int, np.ndarray] = {}
        self.future: Future[list[np.ndarray]] = Future()


class Batcher:
    """Restores the images of many requests on one device.

    Each request in turn gives one image to a batch, so that one with many faces does not keep
    the others waiting.

    Args:
        restore: called in the batcher's own thread only.
        batch_size: maximum number of images at a time.
        wait: seconds a smaller batch waits for more images.
        observe: told the size of each batch.
    """

    def __init__(self, restore: Restore, batch_size: int, wait: float = 0.005,
                 observe: Callable[[int], None] = lambda size: None) -> None:
        self.restore, self.batch_size, self.wait, self.observe = restore, batch_size, wait, observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[np.ndarray]) -> Future[list[np.ndarray]]:
        """Restored faces in the order given; a future that is canceled costs no more batches."""
        job = _Job(images)
        if not images:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Restore what was submitted, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self.observe(len(batch))
            self._restore(batch)

    def _next(self) -> list[tuple[_Job, int]]:
        """The next batch, as pairs of job and index; empty at the end."""
        batch: list[tuple[_Job, int]] = []
        with self._changed:
            while not batch:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return []
                until = time.monotonic() + self.wait
                while (self._pending() < self.batch_size and not self._closed
                       and (left := until - time.monotonic()) > 0):
                    self._changed.wait(left)
                while self._jobs and len(batch) < self.batch_size:
                    job = self._jobs.popleft()
                    if job.future.done():       # canceled, or failed in an earlier batch
                        continue
                    batch.append((job, job.given))
                    job.given += 1
                    if job.given < len(job.images):
                        self._jobs.append(job)
        return batch

    def _pending(self) -> int:
        return sum(len(job.images) - job.given for job in self._jobs)

    def _restore(self, batch: list[tuple[_Job, int]]) -> None:
        try:
            restored = self.restore([job.images[index] for job, index in batch])
        except Exception as error:      # whatever a device raises; it must not end the thread
            if len(batch) > 1:          # one request's fault is not the others'
                for pair in batch:
                    self._restore([pair])
            else:
                _settle(batch[0][0].future, error)
            return
        for (job, index), face in zip(batch, restored, strict=True):
            job.restored[index] = face
            if len(job.restored) == len(job.images):
                _settle(job.future, [job.restored[i] for i in range(len(job.images))])


def _settle(future: Future, outcome: list[np.ndarray] | Exception) -> None:
    # From here on it cannot be canceled, which would make setting it an error.
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
