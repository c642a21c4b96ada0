"""One answer in the making: what goes into a search, what comes out of it, and the search with its sessions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rain.core.config import Budget, RainConfig
from rain.core.engine import Engine, Session
from rain.core.problem import SearchInputs
from rain.core.search import Search
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator, SearchContext, SearchScorer
from rain.text import SentenceEncoder, SpanEncoder, TextStopPolicy


class CommittedText(NamedTuple):
    """One committed token set, as it is in the records.

    Attributes:
        text: its own text.
        visits: whole visits of its node.
        value: its value in [-1, 1], to 6 digits.
        simulations: run for this commit.
    """

    text: str
    visits: int
    value: float
    simulations: int


OnCommit = Callable[[CommittedText], None]


@dataclass(frozen=True)
class Answer:
    """An answer; ``str(answer)`` is its text.

    Attributes:
        text: the answer, stripped of surrounding whitespace.
        finish: why it ended: "eos", "stop", "length", "budget" or "empty".
        commits: the committed token sets in order; empty for a plain answer.
        cost: counters by name: those of ``Usage``, ``seconds``, and for RAIN ``simulations``, ``evaluations`` and
            ``evaluation`` (the part of the usage that evaluation caused).
        tokens: ids of the response, special ones and what belongs to a stop string included.
        prompt_tokens: length of the prompt (tokens).
    """

    text: str
    finish: str
    commits: tuple[CommittedText, ...] = ()
    cost: dict[str, Any] = field(default_factory=dict)
    tokens: Tokens = ()
    prompt_tokens: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt that fits the model.

    Attributes:
        id: together with the run's seed, all randomness comes from it.
        question: what the evaluator is told that was asked.
        tokens: the prompt's ids.
        search: the constants, with limits that fit the context.
        seed: of the run.
        stop: strings before which the response ends, besides those of the task.
    """

    id: str
    question: str
    tokens: Tokens
    search: RainConfig
    seed: int
    stop: tuple[str, ...] = ()


class Generation:
    """One answer in the making: ``commits`` or ``pieces`` run the search, once; ``answer`` may be asked at any time."""

    def __init__(
        self,
        engine: Engine,
        evaluator: Evaluator,
        encoder: SentenceEncoder,
        policy: TextStopPolicy,
        prompt: PreparedPrompt,
        budget: Budget,
        eager: bool = False,
    ) -> None:
        self.prompt, self.policy = prompt, policy
        self._budget, self._started = budget, time.perf_counter()
        self._commits: list[CommittedText] = []
        self._session: Session = engine.session(prompt.id)
        context = SearchContext(
            engine, self._session, prompt.id, prompt.tokens, prompt.question, policy
        )
        self._scorer: SearchScorer = evaluator.search(context)
        inputs = SearchInputs(
            prompt=prompt.tokens,
            key=f"{prompt.seed}/{prompt.id}",
            scorer=self._scorer,
            encoder=SpanEncoder(encoder, policy.text),
            policy=policy,
        )
        self._search = Search(
            inputs, self._session, prompt.search, eager=eager, out_of_budget=self._out_of_budget
        )

    @property
    def tokens(self) -> Tokens:
        """The committed ids, up to the response's limit."""
        start = len(self.prompt.tokens)
        return self._search.prefix[start : self.prompt.search.limit(start)]

    def _out_of_budget(self) -> bool:
        computed = self._session.usage.tokens_computed + self._scorer.usage.tokens_computed
        return self._budget.spent(self._search.simulations, computed, time.perf_counter() - self._started)

    async def commits(self) -> AsyncGenerator[CommittedText, None]:
        """Run the search; yield each committed token set. Caches are freed when it ends, fails or is closed."""
        try:
            async for commit in self._search.commits():
                text = self.policy.text(commit.tokens)
                value = round(commit.child.value, 6)
                self._commits.append(CommittedText(text, commit.child.visits, value, commit.simulations))
                yield self._commits[-1]
        finally:
            await self._scorer.close()
            await self._session.close()

    async def pieces(self) -> AsyncGenerator[tuple[str, CommittedText | None], None]:
        """Run the search; yield text that has become final, with its commit (None: what was held back until the end).

        A piece may be empty, where all of a commit's text is held back.
        """
        shown = 0
        async with aclosing(self.commits()) as commits:
            async for commit in commits:
                text = self.policy.final_text(self.tokens)
                yield text[shown:], commit
                shown = max(shown, len(text))
        rest = self.answer().text[shown:]
        if rest:
            yield rest, None

    def answer(self) -> Answer:
        """Return the answer, or what of it is committed."""
        usage = self._session.usage + self._scorer.usage
        cost = {
            **usage.as_dict(),
            "simulations": self._search.simulations,
            "evaluations": self._scorer.evaluations,
            "evaluation": self._scorer.usage.as_dict(),
            "seconds": round(time.perf_counter() - self._started, 3),
        }
        finish, tokens = self._search.finish or "budget", self.policy.up_to_end(self.tokens)
        # What a longer search might still take back, such as half of a stop string, is not in a shorter one's answer.
        text = self.policy.final_text(tokens) if finish == "budget" else self.policy.text(tokens).strip()
        return Answer(text, finish, tuple(self._commits), cost, tokens, len(self.prompt.tokens))
