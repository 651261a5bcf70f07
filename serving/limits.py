"""How much the service takes on: requests, bytes and pixels at a time."""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from serving.request_error import RequestError

UPLOADS = 16    # so many of the largest uploads are held in memory at a time, as bytes


@dataclass(frozen=True)
class Limits:
    """The flags of the same names; sizes of one request, seconds, and requests at a time."""
    queue: int = 64
    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_result_pixels: int = 50_000_000
    timeout: float = 60.0
    receive_timeout: float = 20.0


class ConcurrencyLimiter:
    """Lets so many requests in and refuses the others at once."""

    def __init__(self, limit: int, changed: Callable[[int], None]) -> None:
        self.limit, self.inside, self.changed = limit, 0, changed

    @property
    def full(self) -> bool:
        return self.inside >= self.limit

    def check(self) -> None:
        """Raise RequestError while no more requests would be let in."""
        if self.full:
            raise RequestError(429, f"the queue is full ({self.limit} requests); try again later",
                               retry_after=1)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place inside, as long as the context lasts."""
        self.check()
        self.inside += 1
        self.changed(self.inside)
        try:
            yield
        finally:
            self.inside -= 1
            self.changed(self.inside)


class Uploads:
    """Bytes of all requests that are held in memory at a time."""

    def __init__(self, limit: int, changed: Callable[[int], None]) -> None:
        self.limit, self.held, self.changed = limit, 0, changed

    @contextmanager
    def account(self) -> Iterator[Callable[[int], None]]:
        """A function to call with the number of bytes just received; given back at the end."""
        own = 0

        def grow(by: int) -> None:
            nonlocal own
            if self.held + by > self.limit:
                raise RequestError(503, "too many uploads are in progress; try again later",
                                   retry_after=2)
            own += by
            self.held += by
            self.changed(self.held)
        try:
            yield grow
        finally:
            self.held -= own
            self.changed(self.held)


class PixelBudget:
    """Pixels that may be in memory at a time; requests wait for them, first come, first served."""

    def __init__(self, total: int) -> None:
        self.total = self._free = total
        self._line, self._returned = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """So many, or all if there are fewer, as long as the context lasts."""
        pixels = min(pixels, self.total)
        async with self._line:
            while self._free < pixels:
                self._returned.clear()
                await self._returned.wait()
            self._free -= pixels
        try:
            yield
        finally:
            self._free += pixels
            self._returned.set()
