"""Streams and events. Work is done when it is called; what is asked of a stream is noted."""
from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

from .. import record

_numbers = itertools.count()


class Event:
    """A mark on a stream; with `enable_timing` also its time."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False,
                 interprocess: bool = False) -> None:
        self.enable_timing, self.time = enable_timing, None

    def record(self, stream: Stream | None = None) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        """What was queued before the event is done already."""

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to another."""
        if not (self.enable_timing and end.enable_timing):
            raise RuntimeError("both events must be made with enable_timing=True")
        if self.time is None or end.time is None:
            raise RuntimeError("both events must be recorded first")
        return (end.time - self.time) * 1000


class Stream:
    """A queue of work with a number; 0 is the default one."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.stream_id = next(_numbers)

    def wait_stream(self, stream: Stream) -> None:
        record.note("wait_stream", self.stream_id, stream.stream_id)

    def wait_event(self, event: Event) -> None:
        record.note("wait_event", self.stream_id)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        record.note("stream.synchronize", self.stream_id)

    def query(self) -> bool:
        return True


_default = Stream()
_running = [_default]


def default_stream(device: Any = None) -> Stream:
    return _default


def current_stream(device: Any = None) -> Stream:
    return _running[-1]


def set_stream(stream: Stream) -> None:
    _running[-1] = stream


@contextlib.contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Queue work on another stream inside; None changes nothing."""
    _running.append(stream or _running[-1])
    record.note("stream", _running[-1].stream_id)
    try:
        yield
    finally:
        _running.pop()
