"""What an answer sends while it is made: text with commits, and at last itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from rain.core.concurrency import run_within
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

    await run_within(run(), seconds or None)
    answer = generation.answer()
    if answer.text[sent:]:
        put(Piece(answer.text[sent:], None, len(answer.tokens)))
    put(answer)
