"""What an answer sends while it is made: text with commits, and at last itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from rain.generation import Answer, CommittedText
from rain.methods.base import Generation
from rain.plain import PlainGeneration

Event = tuple[str, CommittedText | None] | Answer
"""Text that has become final (it may be empty), with its commit if there is one; or, at last, the whole answer."""


async def send_events(
    generation: Generation | PlainGeneration, seconds: float, put: Callable[[Event], None]
) -> None:
    """Run a generation, at most so long (0: no limit), and send its pieces and its answer."""
    sent = 0

    async def run() -> None:
        nonlocal sent
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                sent += len(piece[0])
                put(piece)

    task = asyncio.ensure_future(run())
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds or None)
        if done:
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    answer = generation.answer()
    if answer.text[sent:]:
        put((answer.text[sent:], None))
    put(answer)
