"""What all methods share: what they work with, and an answer in the making."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from rain.core.config import Budget
from rain.core.engine import Engine, Session
from rain.core.types import Tokens
from rain.embedding import SentenceEncoder
from rain.evaluators.base import Evaluator, SearchContext, SearchScorer
from rain.generation import Answer, CommittedText, OnCommit, Piece, PreparedPrompt
from rain.methods.config import MethodConfig
from rain.prompts import PromptFormatter
from rain.stopping import TextStopPolicy


@dataclass(frozen=True)
class Parts:
    """What methods work with.

    Attributes:
        engine: of the language model.
        evaluator: scores texts.
        encoder: of texts, for the similarity of siblings.
        policy: what ends a response.
        formatter: turns questions into prompts.
        aim: of the task.
        method: settings of the method.
        eager: see ``Search``.
        prefetch: see ``PlacementConfig``.
        running: answers in the making.
    """

    engine: Engine
    evaluator: Evaluator
    encoder: SentenceEncoder
    policy: TextStopPolicy
    formatter: PromptFormatter
    aim: str
    method: MethodConfig
    eager: bool = False
    prefetch: int = 0
    running: WeakSet[Generation] = field(default_factory=WeakSet)


class Generation(ABC):
    """One answer in the making: ``commits`` or ``pieces`` runs it once; ``answer`` may be called at any time.

    Args:
        parts: what it works with.
        prompt: what is answered.
        budget: at its end, the best answer so far is the answer.
    """

    def __init__(self, parts: Parts, prompt: PreparedPrompt, budget: Budget) -> None:
        longest = prompt.search.limit(len(prompt.tokens)) - len(prompt.tokens)
        self.parts, self.prompt, self.policy, self.budget = parts, prompt, parts.policy.up_to(longest), budget
        self._started = time.perf_counter()
        self._session: Session = parts.engine.session(prompt.id)
        context = SearchContext(
            parts.engine, self._session, prompt.id, prompt.tokens, prompt.question, self.policy, prompt.fields
        )
        self._scorer: SearchScorer = parts.evaluator.search(context)

    @property
    @abstractmethod
    def simulations(self) -> int:
        """How many simulations, or drafts, there were."""

    @property
    def tokens(self) -> Tokens:
        """The ids that are final, up to the response's limit."""
        return ()

    @property
    def key(self) -> str:
        """Names run seed and prompt; all randomness comes from it."""
        return f"{self.prompt.seed}/{self.prompt.id}"

    @property
    def computed(self) -> int:
        """Tokens computed so far, evaluations included."""
        return self._session.usage.tokens_computed + self._scorer.usage.tokens_computed

    @property
    def seconds(self) -> float:
        """Time since this generation was begun."""
        return time.perf_counter() - self._started

    def out_of_budget(self) -> bool:
        """Tell whether any limit of the budget has been reached."""
        return self.budget.spent(self.simulations, self.computed, self.seconds)

    async def commits(self) -> AsyncGenerator[CommittedText, None]:
        """Run; yield each committed token set. Caches are freed when it ends, fails or is closed."""
        self.parts.running.add(self)
        try:
            async with aclosing(self._run()) as commits:
                async for commit in commits:
                    yield commit
        finally:
            self.parts.running.discard(self)
            await self._scorer.close()
            await self._session.close()

    async def complete(self, on_commit: OnCommit = lambda commit: None) -> Answer:
        """Run to the end; return the answer."""
        async with aclosing(self.commits()) as commits:
            async for commit in commits:
                on_commit(commit)
        return self.answer()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Run; yield text that has become final, with its commit."""
        shown = 0
        async with aclosing(self.commits()) as commits:
            async for commit in commits:
                text = self.policy.final_text(self.tokens)
                lead = "" if shown else self.policy.lead(self.tokens)
                yield Piece(text[shown:], commit, len(self.policy.up_to_end(self.tokens)), lead)
                shown = max(shown, len(text))
        answer = self.answer()
        if answer.text[shown:]:
            yield answer.piece(shown)

    def cost(self) -> dict[str, Any]:
        """Return what it has cost so far."""
        return {
            **(self._session.usage + self._scorer.usage).as_dict(),
            "simulations": self.simulations,
            "evaluations": self._scorer.evaluations,
            "evaluation": self._scorer.usage.as_dict(),
            "seconds": round(self.seconds, 3),
        }

    @abstractmethod
    def _run(self) -> AsyncGenerator[CommittedText, None]:
        """Answer; yield each committed token set."""

    @abstractmethod
    def answer(self) -> Answer:
        """Return the answer, or what of it is final."""
