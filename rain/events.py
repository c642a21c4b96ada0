"""What an answer sends while it is made: text with commits, and at last itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from rain.core.concurrency import cancel_all
from rain.generation import Answer, Piece
from rain.methods.base import Generation
from rain.plain import PlainGeneration

Event = Piece | Answer
"""Text that has become final; or, at last, the whole answer."""


async def send_events(
    generation: Generation | PlainGeneration, seconds: float, put: Callable[[Event], None]
) -> None:
    """Run a generation, at most so long (0: no limit), and send its pieces and its answer."""
    sent = 0

    async def run() -> None:
        nonlocal sent
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                sent += len(piece.text)
                put(piece)

    task = asyncio.ensure_future(run())
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds or None)
        if done:
            task.result()
    finally:
        await cancel_all([task])
    answer = generation.answer()
    if answer.text[sent:]:
        put(Piece(answer.text[sent:], None, len(answer.tokens)))
    put(answer)
