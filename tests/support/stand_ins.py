"""Small stand-ins for what a search uses: a language model, a scorer, an encoder and the rules of a task."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from rain.core.config import RainConfig
from rain.core.engine import Continuation, SamplingParams, Session, Usage
from rain.core.problem import SearchInputs
from rain.core.search import Commit, Search
from rain.core.stop import Stop
from rain.core.tree import Node
from rain.core.types import Tokens, Vector

EOS = 0
PROMPT = (90, 91)


@dataclass(frozen=True)
class Asked(SamplingParams):
    """A request for continuations, as the session got it."""

    prefix: Tokens = ()


Draw = Callable[[Asked, int], tuple[Tokens, float]]


def numbered(asked: Asked, i: int) -> tuple[Tokens, float]:
    """Continue with one token, repeated: 10 for the first continuation, 11 for the second ...; each as likely."""
    return (10 + i,) * asked.max_tokens, 0.1


class FakeSession(Session):
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

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        given = {f.name: getattr(params, f.name) for f in fields(params)}
        asked = Asked(**given, prefix=tuple(prefix))
        if params.purpose == "rollout":
            self.rollouts.append(asked)
            tokens = self.rollout(asked)[: params.max_tokens]
            return [Continuation(tokens, (0.0,) * len(tokens), "stop")]
        self.drawn.append(asked)
        pairs = [self.draw(asked, i) for i in range(params.n)]
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
class FakeStopPolicy:
    """Ends at a token; a text is complete if it has ended or ends in one of the pauses."""

    end: int = EOS
    pauses: frozenset[int] = frozenset()
    rollout_stop: Stop = Stop()

    def finish(self, response: Tokens) -> str | None:
        return "eos" if self.end in response else None

    def complete(self, response: Tokens) -> bool:
        return self.end in response or bool(response and response[-1] in self.pauses)

    def rollout_tokens(self, remaining: int) -> int:
        return remaining


def inputs(
    judge: Callable[[Tokens], float], embed: Callable[[Tokens], Vector] = unlike, key: str = "0/p", **policy: object
) -> SearchInputs:
    return SearchInputs(PROMPT, key, FakeScorer(judge), FakeEncoder(embed), FakeStopPolicy(**policy))  # type: ignore[arg-type]


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


def search(session: Session, judge: Callable[[Tokens], float], config: RainConfig, **options: object) -> Search:
    return Search(inputs(judge, **options), session, config)  # type: ignore[arg-type]


def all_nodes(root: Node, prefix: Tokens = ()) -> dict[Tokens, Node]:
    """Return every node by the tokens from the root to it; the root itself is under ()."""
    found = {prefix: root}
    for child in root.children:
        found |= all_nodes(child, prefix + child.tokens)
    return found
