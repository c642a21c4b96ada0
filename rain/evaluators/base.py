"""What scores the texts of a search: an evaluator for all prompts, and its view of one search."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rain.core.engine import Engine, Usage
from rain.core.types import Tokens
from rain.text import TextStopPolicy


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
    def search(self, engine: Engine, name: str, question: str, policy: TextStopPolicy) -> SearchScorer:
        """Return the scorer of one search.

        Args:
            engine: that the search runs on.
            name: of the search's session.
            question: the prompt, in the words of the user.
            policy: tells which part of a response is its text.
        """
