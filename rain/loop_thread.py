"""An event loop in a thread of its own, for blocking calls from anywhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, TypeVar

from rain.core.concurrency import cancel_all
from rain.core.errors import RainError

T = TypeVar("T")

ENDED = "this Rain object was closed while it was answering"


class LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._lock, self._closing = threading.Lock(), False
        self._thread = threading.Thread(target=self.loop.run_forever, name="rain", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the loop; it is cancelled when the loop is closed.

        Raises:
            RainError: it is closed already.
        """
        with self._lock:  # what is started before ``close`` is among what that cancels
            if not self._closing:
                return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        coroutine.close()
        raise RainError("this Rain object is closed")

    @contextmanager
    def running(self, coroutine: Coroutine[Any, Any, T]) -> Iterator[Future[T]]:
        """Start a coroutine in the loop; what of it still runs when the block is left is cancelled.

        Ctrl-C may come at any moment, even before the future of what has just been started is known here. So the
        coroutine begins only after that, and whatever comes before ends it unbegun.
        """
        known: Future[None] = Future()
        future = None
        try:
            if threading.current_thread() is self._thread:
                raise RainError("a coroutine of this Rain object cannot call its blocking methods; await agenerate")
            future = self.submit(_after(known, coroutine))
            known.set_result(None)
            yield future
        finally:
            known.cancel()
            if future:
                future.cancel()
            else:
                coroutine.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it; an exception here (Ctrl-C) cancels it."""
        try:
            with self.running(coroutine) as future:
                return future.result()
        except CancelledError:
            raise RainError(ENDED) from None

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop like ``run``, without blocking the caller's event loop."""
        try:
            return await asyncio.wrap_future(self.submit(coroutine))
        except asyncio.CancelledError:
            if self._closing:
                raise RainError(ENDED) from None
            raise

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Cancel what is running, run a last coroutine, then stop the loop and its thread."""

        async def finish() -> None:
            await cancel_all(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
            if last:
                await last

        with self._lock:
            self._closing = True
            ending = asyncio.run_coroutine_threadsafe(finish(), self.loop)
        ending.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _after(known: Future[None], coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        await asyncio.wrap_future(known)
    except asyncio.CancelledError:
        coroutine.close()
        raise
    return await coroutine
