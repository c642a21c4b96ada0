"""A greedy answer in the making: decoding with a KV cache, under the limits and stop rules of a search."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rain.core.config import Budget
from rain.core.engine import Engine, SamplingParams
from rain.core.types import Tokens
from rain.generation import Answer, Piece, PreparedPrompt
from rain.stopping import TextStopPolicy

PIECE = 16
"""Tokens in one piece of an answer, where it is streamed or its seconds are limited."""


def next_piece(budget: Budget, room: int, computed: int, uncomputed: int, longest: int = 0) -> int:
    """Return how many tokens to write before the budget is looked at again, at least 1.

    Args:
        budget: of the whole answer.
        room: tokens that the text may still have.
        computed: tokens computed so far.
        uncomputed: tokens before it that are computed for the first time.
        longest: maximum length of a piece; 0: PIECE where seconds are limited, else whatever there is room for.
    """
    piece = min(room, longest or (PIECE if budget.seconds else room))
    return min(piece, max(1, budget.tokens - computed - uncomputed)) if budget.tokens else piece


class PlainGeneration:
    """What the model says without RAIN; ``pieces`` runs it once, ``answer`` may be called at any time.

    Args:
        engine: of the language model.
        policy: what ends the answer.
        prompt: from ``Aligner.prepare``.
        piece: maximum length of a piece (tokens); 0: the answer comes in one.
        budget: at its end, the text so far is the answer; at least one piece is written.
    """

    def __init__(
        self, engine: Engine, policy: TextStopPolicy, prompt: PreparedPrompt, piece: int, budget: Budget
    ) -> None:
        self.prompt, self.policy, self.budget = prompt, policy, budget
        self._piece, self._started = piece, time.perf_counter()
        self._session = engine.session(f"{prompt.id}/plain")
        self._tokens: Tokens = ()
        self._finish: str | None = None

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Decode; yield text that has become final. The cache is freed when it ends, fails or is closed."""
        shown = 0
        try:
            while self._finish is None and not (self._tokens and self._out_of_budget()):
                await self._extend()
                answer = self.answer()
                if answer.text[shown:]:
                    yield answer.piece(shown)
                    shown = len(answer.text)
        finally:
            await self._session.close()

    async def complete(self) -> Answer:
        """Decode to the end; return the answer."""
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        return self.answer()

    def _out_of_budget(self) -> bool:
        return self.budget.spent(0, self._session.usage.tokens_computed, time.perf_counter() - self._started)

    async def _extend(self) -> None:
        start = len(self.prompt.tokens)
        left = self.prompt.search.limit(start) - start - len(self._tokens)
        computed, uncomputed = self._session.usage.tokens_computed, 0 if self._tokens else start
        length = next_piece(self.budget, left, computed, uncomputed, self._piece)
        params = SamplingParams(max_tokens=length, greedy_first=True, stop=self.policy.stop)
        [continuation] = await self._session.generate(self.prompt.tokens + self._tokens, params)
        self._tokens += continuation.tokens
        self._finish = self.policy.finish(self._tokens) or ("length" if length == left else None)

    def answer(self) -> Answer:
        """Return the answer, or what of it has been written."""
        cost = {**self._session.usage.as_dict(), "seconds": round(time.perf_counter() - self._started, 3)}
        tokens = self.policy.up_to_end(self._tokens)
        finish, length, lead = self._finish or "budget", len(self.prompt.tokens), self.policy.lead(tokens)
        text = self.policy.answer(tokens, finish)
        return Answer(text, finish, (), cost, tokens, prompt_tokens=length, lead=lead)
