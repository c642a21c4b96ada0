"""Embedding texts: what a sentence encoder has to do, and how a search's ids become texts for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from rain.core.types import Tokens, Vector


class SentenceEncoder(Protocol):
    """Embeds texts.

    Attributes:
        seconds: how long it has worked.
        takes_turns: whether the event loop stands still meanwhile, as while the language model works.
    """

    seconds: float
    takes_turns: bool

    async def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Return a sentence embedding for each text: (size,), of length 1."""


class SpanEncoder:
    """Embeds token ids of one language model by their text (``rain.core.problem.Encoder``)."""

    def __init__(self, encoder: SentenceEncoder, text_of: Callable[[Tokens], str]) -> None:
        self._encoder, self._text_of = encoder, text_of

    async def encode(self, spans: Sequence[Tokens]) -> list[Vector]:
        """Return one embedding for each span."""
        return await self._encoder.encode([self._text_of(span) for span in spans]) if spans else []
