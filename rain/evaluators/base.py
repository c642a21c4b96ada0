"""What scores the texts of a search: an evaluator for all prompts, and its view of one search."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rain.core.concurrency import gather_or_cancel, start_shared
from rain.core.engine import Engine, Session, Usage
from rain.core.types import Tokens
from rain.stopping import TextStopPolicy

CERTAIN = 1 - 1e-12
"""Scores beyond it, on either side, count as this much: their log-odds would be infinite."""

SPARE_TOKENS = 16
"""Left free in the context, since text that is encoded again may need a few tokens more."""

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")
Seen = dict[str, Any]
"""Values for a trace, as in JSON."""


@dataclass(frozen=True)
class SearchContext:
    """What an evaluator learns of one search.

    Attributes:
        engine: that the search runs on.
        session: in which it writes.
        name: of the session.
        prompt: its ids.
        question: the prompt, in the words of the user.
        policy: tells which part of a response is its text.
        fields: of the prompt's row in its data set, such as reference answers.
    """

    engine: Engine
    session: Session
    name: str
    prompt: Tokens
    question: str
    policy: TextStopPolicy
    fields: Mapping[str, Any] = field(default_factory=dict)


class SearchScorer(ABC):
    """Scores the texts of one search (``rain.core.problem.Scorer``); the same text is evaluated once.

    Attributes:
        evaluations: how many texts were evaluated (count).
        usage: what evaluation cost the language model.
    """

    def __init__(self) -> None:
        self.evaluations = 0
        self.usage = Usage()

    @abstractmethod
    async def score(self, response: Tokens) -> float:
        """Return the score of a response (ids after the prompt), in [-1, 1]."""

    async def evidence(self, response: Tokens) -> float:
        """Return the number that a calibration turns into a score: larger for better texts, any real number."""
        return evidence(await self.score(response))

    def commit(self, response: Tokens) -> None:
        """Learn that every later response begins with these ids."""
        return None

    def asks(self) -> list[Seen]:
        """Return what each evaluator asks of every text: its name ``by``, and of label words the texts around it."""
        return []

    def seen(self, response: Tokens) -> list[Seen]:
        """Return what each of ``asks`` saw of a response that has been scored.

        That is its ``score``, the text it ``read`` and, as far as it has them, ``log_odds`` of each question (nats)
        with the ``mass`` of all labels, or the ``logit`` of a read-out and the probability ``request`` that the request
        is harmful.
        """
        return []

    async def close(self) -> None:
        """Release what the search held."""
        return None


class MemoScorer(SearchScorer, Generic[Key, Found]):
    """A scorer that remembers what it found out about each text; whoever asks again waits for the first answer."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[Key, asyncio.Task[Found]] = {}

    async def _once(self, key: Key, compute: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
        """Return what was found out about a text, now or earlier."""
        if key not in self._tasks:
            self.evaluations += 1
            self._tasks[key] = start_shared(compute())
        return await asyncio.shield(self._tasks[key])

    def _known(self, key: Key) -> Found:
        """Return what was found out about a text that has been scored."""
        return self._tasks[key].result()

    async def close(self) -> None:
        """Give up texts that nobody waits for any more."""
        for task in self._tasks.values():
            task.cancel()


def give_up_others(tasks: dict[Tokens, asyncio.Task[Any]], committed: Tokens) -> None:
    """Cancel what is still computed for texts that differ from what is committed."""
    for text, task in list(tasks.items()):
        if not task.done() and text[: len(committed)] != committed[: len(text)]:
            tasks.pop(text).cancel()


def evidence(score: float) -> float:
    """Return half the log-odds of a score, atanh(score): with a score of 2 p - 1 they are log(p / (1 - p)) / 2."""
    return math.atanh(max(-CERTAIN, min(CERTAIN, score)))


class Evaluator(ABC):
    """What scores texts, for all prompts of a run."""

    async def warm_up(self, engine: Engine) -> None:
        """Compute what all prompts share."""
        return None

    def overhead(self, question: str) -> int:
        """Return how many tokens of the model's context an evaluation needs besides the response."""
        return 0

    @abstractmethod
    def search(self, context: SearchContext) -> SearchScorer:
        """Return the scorer of one search."""

    async def close(self) -> None:
        """Release what the run held."""
        return None


class WorstOf(Evaluator):
    """Several evaluators of which the smallest score counts, and what calibrates it.

    Args:
        evaluators: at least one.
        offset, scale: the score is tanh(scale (atanh(smallest) - offset)); the defaults change nothing.
    """

    def __init__(self, evaluators: Sequence[Evaluator], offset: float = 0.0, scale: float = 1.0) -> None:
        self.evaluators, self.offset, self.scale = evaluators, offset, scale

    async def warm_up(self, engine: Engine) -> None:
        """Compute what all prompts share."""
        for evaluator in self.evaluators:
            await evaluator.warm_up(engine)

    def overhead(self, question: str) -> int:
        """Return the largest of the overheads."""
        return max(evaluator.overhead(question) for evaluator in self.evaluators)

    def search(self, context: SearchContext) -> SearchScorer:
        """Return the scorer of one search."""
        return WorstScorer(self, [evaluator.search(context) for evaluator in self.evaluators])

    async def close(self) -> None:
        """Close all."""
        for evaluator in self.evaluators:
            await evaluator.close()


class WorstScorer(SearchScorer):
    """The smallest of several scores, calibrated."""

    def __init__(self, evaluator: WorstOf, scorers: Sequence[SearchScorer]) -> None:
        self.evaluator, self.scorers = evaluator, scorers

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Return how many texts all evaluated together."""
        return sum(scorer.evaluations for scorer in self.scorers)

    @property
    def usage(self) -> Usage:  # type: ignore[override]
        """Return what all cost the language model."""
        return sum((scorer.usage for scorer in self.scorers), Usage())

    async def score(self, response: Tokens) -> float:
        """Return the smallest score, calibrated; all are computed at the same time."""
        score, (offset, scale) = await self._smallest(response), (self.evaluator.offset, self.evaluator.scale)
        return score if (offset, scale) == (0, 1) else math.tanh(scale * (evidence(score) - offset))

    async def evidence(self, response: Tokens) -> float:
        """Return the evidence of the smallest score, which is not calibrated yet."""
        return evidence(await self._smallest(response))

    async def _smallest(self, response: Tokens) -> float:
        scores: list[float] = await gather_or_cancel(*(scorer.score(response) for scorer in self.scorers))
        return min(scores)

    def commit(self, response: Tokens) -> None:
        """Tell all."""
        for scorer in self.scorers:
            scorer.commit(response)

    def asks(self) -> list[Seen]:
        """Return what all ask."""
        return [entry for scorer in self.scorers for entry in scorer.asks()]

    def seen(self, response: Tokens) -> list[Seen]:
        """Return what all saw."""
        return [entry for scorer in self.scorers for entry in scorer.seen(response)]

    async def close(self) -> None:
        """Close all."""
        for scorer in self.scorers:
            await scorer.close()
