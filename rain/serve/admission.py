"""Which searches run, which wait, and which are refused before anything is done for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

from rain.serve.errors import ApiError

LONGEST_WAIT = 120
"""Seconds of Retry-After at most: clients do not wait longer."""

RECENT = 0.2
"""Weight of the latest search in the mean time that a search takes."""


class Admission:
    """Places for searches: some run, some wait in the order in which they came.

    Args:
        concurrency: searches that run at once, at most.
        max_queue: searches that wait, at most.

    Attributes:
        admitted: searches that run or wait (count).
        running: searches that run (count).
    """

    def __init__(self, concurrency: int, max_queue: int) -> None:
        self.concurrency, self.max_queue = concurrency, max_queue
        self.admitted = self.running = 0
        self._gate = asyncio.Semaphore(concurrency)
        self._seconds = 1.0

    @property
    def waiting(self) -> int:
        """Searches that wait (count)."""
        return self.admitted - self.running

    def check(self, searches: int = 1) -> None:
        """Refuse this many further searches if there is no room for them.

        Raises:
            ApiError: 429 with the time after which there may be room; 400 if there never is.
        """
        places = self.concurrency + self.max_queue
        if searches > places:
            raise ApiError(400, f"n: this server takes {places} at most", "invalid_value", "n")
        if self.admitted + searches > places:
            wait = min(LONGEST_WAIT, math.ceil(self._seconds * max(1, self.waiting) / self.concurrency))
            message = f"{self.running} searches are running and {self.waiting} are waiting; try again in {wait} s"
            raise ApiError(429, message, "rate_limit_exceeded", headers={"Retry-After": str(wait)})

    @contextmanager
    def admit(self, searches: int) -> Iterator[None]:
        """Take this many places; ``leave`` gives them back, and so does a block that fails.

        Raises:
            ApiError: there is no room.
        """
        self.check(searches)
        self.admitted += searches
        try:
            yield
        except BaseException:
            self.leave(searches)
            raise

    def leave(self, searches: int) -> None:
        """Give places back."""
        self.admitted -= searches

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, and hold it."""
        async with self._gate:
            started = monotonic()
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
                self._seconds += RECENT * (monotonic() - started - self._seconds)
