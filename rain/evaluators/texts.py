"""For evaluators that read text, not tokens: each text once, and all that wait at the same time in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.evaluators.base import MemoScorer, SearchContext, Seen

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


ScoreText = Callable[[str], Coroutine[Any, Any, float]]


class TextScorer(MemoScorer[str, float]):
    """Scores the texts of one search with an asynchronous function, which is called once for the same text."""

    def __init__(self, context: SearchContext, score_text: ScoreText, name: str) -> None:
        super().__init__()
        self.policy, self._score_text, self.name = context.policy, score_text, name

    async def score(self, response: Tokens) -> float:
        """Return the score of a response, in [-1, 1]."""
        text = self.policy.text(response)
        return await self._once(text, lambda: self._score_text(text))

    def asks(self) -> list[Seen]:
        """Return the evaluator's name."""
        return [{"by": self.name}]

    def seen(self, response: Tokens) -> list[Seen]:
        """Return the score of a response that has been scored."""
        text = self.policy.text(response)
        return [{"score": self._known(text), "read": text}]


class Batcher(Generic[Item, Result]):
    """Calls a function in a thread, never twice at the same time, with all items that wait for it; equal items once.

    Args:
        call: takes items, returns as many results.
        again: whether each item gets a call of its own after an exception, so that one does not spoil the others.
    """

    def __init__(self, call: Callable[[list[Item]], Sequence[Result]], again: bool = True) -> None:
        self._call, self._again = call, again
        self._waiting: dict[Item, asyncio.Future[Result]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Return the function's result for an item.

        Raises:
            Exception: what the function raised.
        """
        future = self._waiting.setdefault(item, asyncio.get_running_loop().create_future())
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(future)

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # so that everything that is ready can ask
            batch, self._waiting = self._waiting, {}
            await self._settle(batch)

    async def _settle(self, batch: Mapping[Item, asyncio.Future[Result]]) -> None:
        try:
            results = await asyncio.to_thread(self._call, list(batch))
        except Exception as error:
            for item, future in batch.items():
                if self._again and len(batch) > 1:
                    await self._settle({item: future})
                else:
                    future.set_exception(error)
                    future.exception()  # read, in case that nobody waits any more
        else:
            for future, result in zip(batch.values(), results, strict=True):
                future.set_result(result)


def check_score(value: Any) -> float:
    """Return a score as a number.

    Raises:
        RainError: it is not a number in [-1, 1].
    """
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise RainError(f"the scorer returned {value!r} for a text; it must be a number in [-1, 1]") from None
    if not -1 <= score <= 1:  # also refuses NaN
        raise RainError(f"the scorer returned {score} for a text; it must be in [-1, 1]")
    return score
