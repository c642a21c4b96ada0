"""Awaiting several things at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


def start_shared(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """Start what several may wait for, by ``asyncio.shield``; an exception that nobody waits for is forgotten."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def gather_or_cancel(*coroutines: Any) -> list[Any]:
    """Await all; if one fails or this call is cancelled, cancel the others before passing it on."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        await cancel_all(tasks)
        raise


async def run_within(work: Coroutine[Any, Any, Result], seconds: float | None) -> list[Result]:
    """Run something at most so long (None: no limit); then, or if this call is cancelled, it is cancelled.

    ``asyncio.wait_for`` of Python 3.10 and 3.11 takes no notice of a cancellation that comes together with the result.

    Returns:
        its result alone; nothing if it took too long.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        return [task.result()] if task.done() else []  # whatever it raised, a TimeoutError of its own too
    finally:
        await cancel_all([task])


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until all of them have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
