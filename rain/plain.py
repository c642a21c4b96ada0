"""A plain answer in the making: greedy decoding with a KV cache, under the limits and stop rules of a search."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from rain.core.engine import Engine, SamplingParams
from rain.core.types import Tokens
from rain.generation import Answer, PreparedPrompt
from rain.text import TextStopPolicy


class PlainGeneration:
    """What the model says without RAIN; ``pieces`` runs it, once, ``answer`` may be asked at any time.

    Args:
        engine: of the language model.
        policy: what ends the answer.
        prompt: from ``Aligner.prepare``.
        piece: maximum length of a piece (tokens); 0: the answer comes in one.
    """

    def __init__(self, engine: Engine, policy: TextStopPolicy, prompt: PreparedPrompt, piece: int = 0) -> None:
        self.prompt, self.policy = prompt, policy
        self._piece, self._started = piece, time.perf_counter()
        self._session = engine.session(f"{prompt.id}/plain")
        self._tokens: Tokens = ()
        self._finish: str | None = None

    async def pieces(self) -> AsyncGenerator[tuple[str, None], None]:
        """Decode; yield text that has become final. The cache is freed when it ends, fails or is closed."""
        shown = 0
        try:
            while self._finish is None:
                await self._extend()
                text = self.answer().text if self._finish else self.policy.final_text(self._tokens)
                if text[shown:]:
                    yield text[shown:], None
                    shown = len(text)
        finally:
            await self._session.close()

    async def _extend(self) -> None:
        start = len(self.prompt.tokens)
        left = self.prompt.search.limit(start) - start - len(self._tokens)
        length = min(left, self._piece) if self._piece else left
        params = SamplingParams(max_tokens=length, greedy_first=True, stop=self.policy.stop)
        [continuation] = await self._session.generate(self.prompt.tokens + self._tokens, params)
        self._tokens += continuation.tokens
        self._finish = self.policy.finish(self._tokens) or ("length" if length == left else None)

    def answer(self) -> Answer:
        """Return the answer, or what of it has been written."""
        cost = {**self._session.usage.as_dict(), "seconds": round(time.perf_counter() - self._started, 3)}
        text = self.policy.text(self._tokens).strip() if self._finish else self.policy.final_text(self._tokens)
        return Answer(text, self._finish or "budget", (), cost, self._tokens, prompt_tokens=len(self.prompt.tokens))
