"""``fluency``: whether a text is language at all; meant as a second evaluator, since the smallest score counts.

Three numbers of a text: nats per token under the writer, the share of repeated 4-grams, and the share of strange
characters (emoji, other symbols, "aaaa"). The first comes from the engine, one question a new token; it costs a token
where the cache does not know the answer. Rows of symbols are likely under the model, and short ones repeat no 4-gram.
"""

from __future__ import annotations

import asyncio
import math
import unicodedata
from collections.abc import Sequence

from rain.core.concurrency import start_shared
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator, MemoScorer, SearchContext, Seen, give_up_others

GRAM = 4
SHORT = 8
"""Texts of fewer tokens are too short to count: their nats are divided by this many."""

NATS, NATS_SLOPE = 3.5, 1.5
REPEATED, REPEATED_SLOPE = 0.3, 8.0
SYMBOLS, SYMBOLS_SLOPE = 0.2, 10.0
"""Where each number makes a text neither good nor bad, and how fast the score's half log-odds falls."""


def fluency(logprobs: Sequence[float], tokens: Tokens, text: str) -> float:
    """Return the score of a text, in [-1, 1]: by the worst of the three numbers.

    Args:
        logprobs: of each token, after those before it (nats).
        tokens: of the text.
        text: as a reader sees it.
    """
    nats = -sum(logprobs) / max(len(logprobs), SHORT)
    repeated, strange = surface(tokens, text)
    limits = ((NATS, NATS_SLOPE, nats), (REPEATED, REPEATED_SLOPE, repeated), (SYMBOLS, SYMBOLS_SLOPE, strange))
    return math.tanh(min(slope * (limit - value) for limit, slope, value in limits))


def surface(tokens: Tokens, text: str) -> tuple[float, float]:
    """Return which share of a text's 4-grams (tokens) is repeated, and which of its characters is strange.

    Those are symbols, such as emoji, and characters that repeat the two before them.
    """
    grams = [tokens[i : i + GRAM] for i in range(len(tokens) - GRAM + 1)]
    repeated = 1 - len(set(grams)) / max(len(grams), 1) if len(tokens) > SHORT else 0.0
    seen = [character for character in text if not character.isspace()]
    symbols = [unicodedata.category(c)[0] in "SC" and not c.isascii() for c in seen]
    rows = [seen[max(0, i - 2) : i] == [c, c] for i, c in enumerate(seen)]
    return repeated, sum(map(max, symbols, rows)) / max(len(seen), 1)


def is_language(tokens: Tokens, text: str) -> bool:
    """Tell whether a text is neither a row of strange characters nor the same words again and again."""
    repeated, strange = surface(tokens, text)
    return repeated <= REPEATED and strange <= SYMBOLS


class FluencyEvaluator(Evaluator):
    """Scores texts by their fluency under the model that writes."""

    def search(self, context: SearchContext) -> FluencyScorer:
        """Return the scorer of one search, on the session in which it writes."""
        return FluencyScorer(context)


class FluencyScorer(MemoScorer[Tokens, float]):
    """Scores the texts of one search; each token is asked for once after the same tokens."""

    def __init__(self, context: SearchContext) -> None:
        super().__init__()
        self.context = context
        self._logprobs: dict[Tokens, asyncio.Task[dict[int, float]]] = {}

    async def score(self, response: Tokens) -> float:
        """Return the score of a response, in [-1, 1]; an empty one is undecided."""
        text = self.context.policy.visible(response)
        return await self._once(text, lambda: self._score(text))

    async def _score(self, text: Tokens) -> float:
        logprobs = await asyncio.gather(*(self._logprob(text[:i]) for i in range(1, len(text) + 1)))
        return fluency(logprobs, text, self.context.policy.adapter.decode(text)) if text else 0.0

    async def _logprob(self, tokens: Tokens) -> float:
        """Return the log-probability of the last token."""
        if tokens not in self._logprobs:
            prefix = self.context.prompt + tokens[:-1]
            asked = self.context.session.next_logprobs(prefix, ids=tokens[-1:])
            self._logprobs[tokens] = start_shared(asked)
        return (await asyncio.shield(self._logprobs[tokens]))[tokens[-1]]

    def commit(self, response: Tokens) -> None:
        """Give up texts that begin otherwise."""
        for tasks in (self._tasks, self._logprobs):
            give_up_others(tasks, self.context.policy.visible(response))

    def asks(self) -> list[Seen]:
        """Return the evaluator's name."""
        return [{"by": "fluency"}]

    def seen(self, response: Tokens) -> list[Seen]:
        """Return the score of a response that has been scored."""
        text = self.context.policy.visible(response)
        return [{"score": self._known(text), "read": self.context.policy.adapter.decode(text)}]

    async def close(self) -> None:
        """Give up questions that nobody waits for any more."""
        await super().close()
        for task in self._logprobs.values():
            task.cancel()
