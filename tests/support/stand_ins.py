"""Small stand-ins for what a search asks: a language model, a scorer, an encoder and the rules of a task."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rain.core.config import RainConfig
from rain.core.engine import Continuation, Engine, Stop, Usage
from rain.core.problem import Problem
from rain.core.search import Commit, Search
from rain.core.tree import Node
from rain.core.types import Tokens, Vector

EOS = 0
PROMPT = (90, 91)


class Asked(NamedTuple):
    """A request for continuations, as the engine got it."""

    prefix: Tokens
    n: int
    max_tokens: int
    temperature: float
    top_k: int
    greedy_first: bool
    stop: Stop
    seed: int


Draw = Callable[[Asked, int], tuple[Tokens, float]]


def numbered(asked: Asked, i: int) -> tuple[Tokens, float]:
    """Continue with one token, repeated: 10 for the first continuation, 11 for the second ...; each as likely."""
    return (10 + i,) * asked.max_tokens, 0.1


class FakeEngine(Engine):
    """Answers candidates and rollouts by functions, next tokens by a table, and keeps what it was asked."""

    def __init__(
        self,
        chances: Mapping[int, float],
        draw: Draw = numbered,
        rollout: Callable[[Asked], Tokens] = lambda asked: (5,),
    ) -> None:
        self.chances, self.draw, self.rollout = chances, draw, rollout
        self.usage = Usage()
        self.drawn: list[Asked] = []
        self.rollouts: list[Asked] = []
        self.ranked: list[tuple[Tokens, int]] = []
        self.committed: list[Tokens] = []

    async def generate(
        self,
        prefix: Sequence[int],
        *,
        n: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        greedy_first: bool = False,
        stop: Stop = Stop(),  # noqa: B008 - frozen
        seed: int = 0,
    ) -> list[Continuation]:
        asked = Asked(tuple(prefix), n, max_tokens, temperature, top_k, greedy_first, stop, seed)
        if n == 1 and top_k == 0:
            self.rollouts.append(asked)
            tokens = self.rollout(asked)[:max_tokens]
            return [Continuation(tokens, (0.0,) * len(tokens), "stop")]
        self.drawn.append(asked)
        pairs = [self.draw(asked, i) for i in range(n)]
        return [Continuation(t, (math.log(p), *[0.0] * (len(t) - 1)), "length") for t, p in pairs]

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        self.ranked.append((tuple(prefix), top))
        best = sorted(self.chances, key=lambda token: -self.chances[token])[:top]
        return {token: math.log(self.chances[token]) for token in (*best, *ids)}

    def commit(self, prefix: Sequence[int]) -> None:
        self.committed.append(tuple(prefix))


@dataclass
class FakeScorer:
    """Scores by a function; keeps what was scored and committed."""

    judge: Callable[[Tokens], float]
    scored: list[Tokens] = field(default_factory=list)
    committed: list[Tokens] = field(default_factory=list)

    async def score(self, response: Tokens) -> float:
        self.scored.append(response)
        return self.judge(response)

    def commit(self, response: Tokens) -> None:
        self.committed.append(response)


@dataclass
class FakeEncoder:
    """Embeds by a function (all texts alike, or each in a direction of its own); keeps what was embedded."""

    embed: Callable[[Tokens], Vector]
    spans: list[list[Tokens]] = field(default_factory=list)

    async def encode(self, spans: Sequence[Tokens]) -> list[Vector]:
        self.spans.append(list(spans))
        return [self.embed(span) for span in spans]


def alike(span: Tokens) -> Vector:
    return np.array([1.0, 0.0])


def unlike(span: Tokens) -> Vector:
    """A direction of its own for nearly every text."""
    return np.random.default_rng(abs(hash(span))).normal(size=64)


@dataclass(frozen=True)
class FakeRules:
    """Ends at a token; a text is complete if it has ended or ends in one of the pauses."""

    end: int = EOS
    pauses: frozenset[int] = frozenset()
    rollout_stop: Stop = Stop()

    def finish(self, response: Tokens) -> str | None:
        return "eos" if self.end in response else None

    def complete(self, response: Tokens) -> bool:
        return self.end in response or bool(response and response[-1] in self.pauses)

    def rollout_tokens(self, room: int) -> int:
        return room


def problem(
    judge: Callable[[Tokens], float], embed: Callable[[Tokens], Vector] = unlike, key: str = "0/p", **rules: object
) -> Problem:
    return Problem(PROMPT, key, FakeScorer(judge), FakeEncoder(embed), FakeRules(**rules))  # type: ignore[arg-type]


def run_search(search: Search, commits: int = 10**9) -> list[Commit]:
    """Return the first commits of a search, with the statistics that the tree has after the last of them."""

    async def collect() -> list[Commit]:
        found: list[Commit] = []
        async for commit in search.commits():
            found.append(commit)
            if len(found) == commits:
                break
        return found

    return asyncio.run(collect())


def search(engine: Engine, judge: Callable[[Tokens], float], config: RainConfig, **options: object) -> Search:
    return Search(problem(judge, **options), engine, config)  # type: ignore[arg-type]


def all_nodes(root: Node, prefix: Tokens = ()) -> dict[Tokens, Node]:
    """Return every node by the tokens from the root to it; the root itself stands under ()."""
    found = {prefix: root}
    for child in root.children:
        found |= all_nodes(child, prefix + child.tokens)
    return found
