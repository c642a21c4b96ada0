"""Functions as evaluators: any of prompt and text, or ``python:PACKAGE.MODULE:FUNCTION`` of a prompt and texts."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rain.core.errors import RainError
from rain.evaluators.base import Evaluator, SearchContext
from rain.evaluators.texts import Batcher, TextScorer, check_score

TextFunction = Callable[[str, str], float | Awaitable[float]]
"""Takes the prompt and a text that begins the answer; returns its score in [-1, 1]."""


@contextmanager
def contained() -> Iterator[None]:
    """Raise a RainError for exceptions that would end the thread of the event loop instead of a prompt."""
    try:
        yield
    except (StopIteration, SystemExit, KeyboardInterrupt) as error:
        raise RainError(f"the scorer raised {error!r}") from error


class FunctionEvaluator(Evaluator):
    """Scores texts with a function: in a thread, one text of a search at a time, unless it is a coroutine function."""

    def __init__(self, function: TextFunction) -> None:
        self.function = function

    def search(self, context: SearchContext) -> TextScorer:
        """Return the scorer of one search."""
        name = getattr(self.function, "__name__", "function")
        return TextScorer(context, partial(self._call, asyncio.Lock(), context.question), name)

    async def _call(self, one_at_a_time: asyncio.Lock, question: str, text: str) -> float:
        function: Callable[[str, str], Any] = self.function

        def call() -> Any:
            with contained():
                return function(question, text)

        if inspect.iscoroutinefunction(function):
            value = function(question, text)
        else:
            async with one_at_a_time:
                value = await asyncio.to_thread(call)
        with contained():
            return check_score(await value if inspect.isawaitable(value) else value)


class PythonEvaluator(Evaluator):
    """``python:PACKAGE.MODULE:FUNCTION``, called in a thread with all texts of a search that wait for a score.

    The function is ``(prompt, continuations, params) -> list of scores``, the contract of DeAL and AISteer360.

    Raises:
        RainError: the function cannot be imported.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        module, _, attribute = name.partition(":")
        try:
            self.function: Callable[..., Sequence[Any]] = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # the module's own code runs
            raise RainError(f"the evaluator python:{name} cannot be imported: {error}") from error

    def search(self, context: SearchContext) -> TextScorer:
        """Return the scorer of one search."""
        ask = Batcher[str, float](partial(self._call, context.question), again=False)
        return TextScorer(context, ask, f"python:{self.name}")

    def _call(self, question: str, texts: list[str]) -> list[float]:
        """Return the function's scores; what goes wrong is printed and becomes an error of the prompt."""
        try:
            scores = list(self.function(question, texts, {}))
            if len(scores) != len(texts):
                raise RainError(f"it returned {len(scores)} scores for {len(texts)} texts")
            return [check_score(score) for score in scores]
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            traceback.print_exc()
            shown = error if isinstance(error, RainError) else repr(error)
            raise RainError(f"the evaluator python:{self.name} failed: {shown}") from error
