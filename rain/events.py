"""What an answer sends while it is made: text with commits, and at last itself; from one thread into another."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from contextlib import aclosing, suppress

from rain.core.concurrency import run_within
from rain.core.errors import RainError
from rain.generation import Answer, Piece
from rain.loop_thread import ENDED, LoopThread
from rain.methods.base import Generation
from rain.plain import PlainGeneration

Event = Piece | Answer
"""Text that has become final; or, at last, the whole answer."""

Sent = Event | BaseException | None
"""What goes into another thread: events, then None at the end of them; or what ended them."""

Begin = Callable[[], Generation | PlainGeneration]
"""Begins an answer."""


def receive(thread: LoopThread, begin: Begin) -> Generator[Event, None, None]:
    """Yield what an answer in another thread sends; closing the generator ends the answer."""
    events: queue.SimpleQueue[Sent] = queue.SimpleQueue()
    with thread.running(_send(begin, events.put)) as future:
        future.add_done_callback(_end_of(events.put))
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event


async def areceive(thread: LoopThread, begin: Begin) -> AsyncGenerator[Event, None]:
    """Yield like ``receive``, without blocking the caller's event loop."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Sent]()

    def put(event: Sent) -> None:
        with suppress(RuntimeError):  # the caller's loop has ended, and nobody is listening
            loop.call_soon_threadsafe(events.put_nowait, event)

    future = thread.submit(_send(begin, put))
    future.add_done_callback(_end_of(put))
    try:
        while (event := await events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        future.cancel()


def _end_of(put: Callable[[Sent], None]) -> Callable[[Future[None]], None]:
    """Return what tells who waits for events that there will be no more, of what never began, too."""
    return lambda future: put(RainError(ENDED) if future.cancelled() else future.exception())


async def _send(begin: Begin, put: Callable[[Sent], None]) -> None:
    """Send an answer into another thread: its pieces, then itself."""
    generation, sent = begin(), 0

    async def send_pieces() -> None:
        nonlocal sent
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                sent += len(piece.text)
                put(piece)

    await run_within(send_pieces(), generation.budget.seconds or None)
    answer = generation.answer()
    if answer.text[sent:]:
        put(answer.piece(sent))
    put(answer)
