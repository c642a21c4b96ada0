"""What scores the texts of a search: an evaluator for all prompts, and its view of one search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rain.core.concurrency import gather_or_cancel
from rain.core.engine import Engine, Session, Usage
from rain.core.types import Tokens
from rain.text import TextStopPolicy


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
    """

    engine: Engine
    session: Session
    name: str
    prompt: Tokens
    question: str
    policy: TextStopPolicy


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

    def commit(self, response: Tokens) -> None:
        """Learn that every later response begins with these ids."""
        return None

    async def close(self) -> None:
        """Release what the search held."""
        return None


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


class WorstOf(Evaluator):
    """Several evaluators of which the smallest score counts."""

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self.evaluators = evaluators

    async def warm_up(self, engine: Engine) -> None:
        """Compute what all prompts share."""
        for evaluator in self.evaluators:
            await evaluator.warm_up(engine)

    def overhead(self, question: str) -> int:
        """Return the largest of the overheads."""
        return max(evaluator.overhead(question) for evaluator in self.evaluators)

    def search(self, context: SearchContext) -> SearchScorer:
        """Return the scorer of one search."""
        return WorstScorer([evaluator.search(context) for evaluator in self.evaluators])


class WorstScorer(SearchScorer):
    """The smallest of several scores."""

    def __init__(self, scorers: Sequence[SearchScorer]) -> None:
        super().__init__()
        self.scorers = scorers

    async def score(self, response: Tokens) -> float:
        """Return the smallest score; all are computed at the same time."""
        scores: list[float] = await gather_or_cancel(*(scorer.score(response) for scorer in self.scorers))
        self.evaluations = sum(scorer.evaluations for scorer in self.scorers)
        self.usage = sum((scorer.usage for scorer in self.scorers), Usage())
        return min(scores)

    def commit(self, response: Tokens) -> None:
        """Tell all."""
        for scorer in self.scorers:
            scorer.commit(response)

    async def close(self) -> None:
        """Close all."""
        for scorer in self.scorers:
            await scorer.close()


class NoEvaluator(Evaluator):
    """For answers whose value nobody asks: every text has value 0, and nothing is computed."""

    def search(self, context: SearchContext) -> SearchScorer:
        """Return the scorer of one search."""
        return NoScorer()


class NoScorer(SearchScorer):
    """See ``NoEvaluator``."""

    async def score(self, response: Tokens) -> float:
        """Return 0."""
        return 0.0
