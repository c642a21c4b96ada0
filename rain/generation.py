"""One answer in the making: what goes into it, what comes out of it, and what all methods share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.config import Budget, RainConfig
from rain.core.engine import Engine, Session
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator, SearchContext, SearchScorer
from rain.methods.config import MethodConfig
from rain.prompts import PromptFormatter
from rain.text import Message, SentenceEncoder, TextStopPolicy


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


class Draft(NamedTuple):
    """One whole answer of a method that writes several, or of one that does not search.

    Attributes:
        text: stripped of surrounding whitespace.
        value: what the evaluator says of it, in [-1, 1], to 6 digits; None: it was not asked.
        finish: why it ended.
        tokens_computed: by the method up to and with this draft, evaluations included (of drafts that were drawn
            together each has a share by its length).
        seconds: likewise.
        tokens: its ids; not in the records.
    """

    text: str
    value: float | None
    finish: str
    tokens_computed: int
    seconds: float
    tokens: Tokens = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the draft as it is in the records."""
        return {name: value for name, value in self._asdict().items() if name != "tokens"}


OnCommit = Callable[[CommittedText], None]


@dataclass(frozen=True)
class Answer:
    """An answer; ``str(answer)`` is its text.

    Attributes:
        text: the answer, stripped of surrounding whitespace.
        finish: why it ended: "eos", "stop", "length", "budget" or "empty".
        commits: the committed token sets in order; empty for a plain answer.
        cost: counters by name: those of ``Usage``, ``seconds``, and but for plain answers ``simulations`` (or drafts),
            ``evaluations`` and ``evaluation`` (the part of the usage that evaluation caused).
        tokens: ids of the response, special ones and what belongs to a stop string included.
        drafts: what the methods without a search wrote, in order; one of them is the answer.
        value: of the draft that is the answer.
        prompt_tokens: length of the prompt (tokens).
    """

    text: str
    finish: str
    commits: tuple[CommittedText, ...] = ()
    cost: dict[str, Any] = field(default_factory=dict)
    tokens: Tokens = ()
    drafts: tuple[Draft, ...] = ()
    value: float | None = None
    prompt_tokens: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt that fits the model.

    Attributes:
        id: together with the run's seed, all randomness comes from it.
        question: what the evaluator is told that was asked.
        source: the prompt as it was given.
        tokens: the prompt's ids.
        search: the constants, with limits that fit the context.
        seed: of the run.
        stop: strings before which the response ends, besides those of the task.
        trace: the file in which the search is recorded; None: it is not.
    """

    id: str
    question: str
    source: str | Sequence[Message] | Tokens
    tokens: Tokens
    search: RainConfig
    seed: int
    stop: tuple[str, ...] = ()
    trace: Path | None = None


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
    """

    engine: Engine
    evaluator: Evaluator
    encoder: SentenceEncoder
    policy: TextStopPolicy
    formatter: PromptFormatter
    aim: str
    method: MethodConfig
    eager: bool = False


class Generation(ABC):
    """One answer in the making: ``commits`` or ``pieces`` run it, once; ``answer`` may be asked at any time.

    Args:
        parts: what it works with.
        prompt: what is answered.
        budget: at its end, the best answer so far is the answer.
    """

    def __init__(self, parts: Parts, prompt: PreparedPrompt, budget: Budget) -> None:
        self.parts, self.prompt, self.policy, self.budget = parts, prompt, parts.policy, budget
        self._started = time.perf_counter()
        self._session: Session = parts.engine.session(prompt.id)
        context = SearchContext(
            parts.engine, self._session, prompt.id, prompt.tokens, prompt.question, parts.policy
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
        try:
            async with aclosing(self._run()) as commits:
                async for commit in commits:
                    yield commit
        finally:
            await self._scorer.close()
            await self._session.close()

    async def complete(self, on_commit: OnCommit = lambda commit: None) -> Answer:
        """Run to the end; return the answer."""
        async with aclosing(self.commits()) as commits:
            async for commit in commits:
                on_commit(commit)
        return self.answer()

    async def pieces(self) -> AsyncGenerator[tuple[str, CommittedText | None], None]:
        """Run; yield text that has become final, with its commit (None: what was held back until the end).

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
