"""A scorer of one's own: any function of prompt and text."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator, SearchContext, SearchScorer
from rain.text import TextStopPolicy

TextScorer = Callable[[str, str], float | Awaitable[float]]
"""Takes the prompt and a text that begins the answer; returns its score in [-1, 1]."""


class FunctionEvaluator(Evaluator):
    """Scores texts with a function, which runs in a thread unless it is a coroutine function."""

    def __init__(self, function: TextScorer) -> None:
        self.function = function

    def search(self, context: SearchContext) -> FunctionScorer:
        """Return the scorer of one search."""
        return FunctionScorer(self.function, context.question, context.policy)


class FunctionScorer(SearchScorer):
    """Scores the texts of one search; the function is called once for the same text."""

    def __init__(self, function: TextScorer, question: str, policy: TextStopPolicy) -> None:
        super().__init__()
        self.function, self.question, self.policy = function, question, policy
        self._scores: dict[str, float] = {}

    async def score(self, response: Tokens) -> float:
        """Return the function's score.

        Raises:
            RainError: it is not a number in [-1, 1].
        """
        text = self.policy.text(response)
        if text not in self._scores:
            self.evaluations += 1
            self._scores[text] = await self._call(text)
        return self._scores[text]

    async def _call(self, text: str) -> float:
        function: Callable[[str, str], Any] = self.function
        if inspect.iscoroutinefunction(function):
            value = function(self.question, text)
        else:
            value = await asyncio.to_thread(function, self.question, text)
        if inspect.isawaitable(value):
            value = await value
        try:
            score = float(value)
        except (TypeError, ValueError):
            raise RainError(f"the scorer returned {value!r} for a text; it must be a number in [-1, 1]") from None
        if not -1 <= score <= 1:  # also refuses NaN
            raise RainError(f"the scorer returned {score} for a text; it must be in [-1, 1]")
        return score
