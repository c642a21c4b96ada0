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


class LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="rain", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the loop."""
        self._check_open(coroutine)
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def _check_open(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        if self.loop.is_closed():
            coroutine.close()
            raise RainError("this Rain object is closed")

    @contextmanager
    def running(self, coroutine: Coroutine[Any, Any, T]) -> Iterator[Future[T]]:
        """Start a coroutine in the loop; what of it still runs when the block is left is cancelled.

        Ctrl-C may come at any moment, even before the future of what has just been started is known here. So the
        coroutine begins only after that, and whatever comes before ends it unbegun.
        """
        self._check_open(coroutine)
        known: Future[None] = Future()
        future = None
        try:
            future = self.submit(_after(known, coroutine))
            known.set_result(None)
            yield future
        finally:
            known.cancel()
            if future:
                future.cancel()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it; an exception here (Ctrl-C) cancels it."""
        try:
            with self.running(coroutine) as future:
                return future.result()
        except CancelledError:
            raise RainError("this Rain object was closed while it was answering") from None

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Cancel what is running, run a last coroutine, then stop the loop and its thread."""

        async def finish() -> None:
            await cancel_all(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
            if last:
                await last

        self.submit(finish()).result()
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
