"""The engine contract: token ids in, token ids out.

An engine knows a language model and nothing of tasks, trees or scores. Every implementation passes
``tests/test_engine_contract.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from rain.errors import RainError

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """When a continuation ends before ``max_tokens``.

    Attributes:
        token_ids: a generated token out of this set ends the continuation and is kept as its last token.
        strings: the continuation ends with the token that completes any of these strings in its decoded text.
    """

    token_ids: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()


class Continuation(NamedTuple):
    """One continuation of a prefix.

    Attributes:
        tokens: the generated ids, without the prefix, the stopping token included.
        logprobs: for each token its log-probability under the distribution it was drawn from: after temperature and
            top-k, renormalised over the top-k tokens. A greedy continuation is scored under the same distribution.
        finish: "stop" if a rule of ``Stop`` ended it, "length" if ``max_tokens`` did.
    """

    tokens: Tokens
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


@dataclass(slots=True)
class Usage:
    """What a session has cost so far.

    Attributes:
        forward_passes: model calls that this session took part in (a call shared by k sessions counts for each).
        tokens_computed: query tokens that went through the model for this session.
        tokens_distinct: those of them that were computed for the first time; the lower bound of ``tokens_computed``.
        tokens_reused: tokens of requests that came out of a cache instead.
        requests: calls of ``generate`` and ``next_logprobs``.
        model_seconds: time in the model; a pass that several sessions share is split by their query tokens. 0 where
            the engine cannot tell.
    """

    forward_passes: int = 0
    tokens_computed: int = 0
    tokens_distinct: int = 0
    tokens_reused: int = 0
    requests: int = 0
    model_seconds: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        """Return the counters by name, times to the millisecond."""
        return {field.name: round(getattr(self, field.name), 3) for field in fields(self)}


def check_request(prefix: Sequence[int], context: int, n: int = 1, max_tokens: int = 1) -> None:
    """Refuse a request that no engine with this context (tokens) can answer.

    Raises:
        RainError: the prefix is empty, nothing is to be generated, or the whole is longer than the context.
    """
    if not prefix:
        raise RainError("an engine needs at least one token of prefix")
    if n < 1 or max_tokens < 1:
        raise RainError(f"generate needs n and max_tokens of at least 1, not {n} and {max_tokens}")
    if len(prefix) + max_tokens - 1 > context:
        raise RainError(f"{len(prefix)} + {max_tokens} tokens do not fit into the model's context of {context}")


class Engine(ABC):
    """A causal language model behind token ids; methods may be awaited concurrently.

    The same request with the same seed gives the same answer, whatever else runs beside it.
    """

    usage: Usage

    @abstractmethod
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
        """Continue ``prefix`` n times, independently of each other.

        Args:
            prefix: token ids, at least one.
            n: number of continuations, at least 1; equal ones are not removed.
            max_tokens: length limit of each, at least 1.
            temperature: above 0.
            top_k: draw from this many most likely tokens; 0 draws from the whole vocabulary.
            greedy_first: the first continuation takes the most likely token each time; the others are drawn.
            stop: ends continuations early; the end-of-sequence token is no exception: it ends nothing unless listed.
            seed: continuation i draws from a stream that depends on ``(seed, i)`` alone.

        Raises:
            RainError: the request does not fit the model (for example, it is longer than the context).
        """

    @abstractmethod
    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """Return log-probabilities of the token after ``prefix`` (natural log, temperature 1, whole vocabulary).

        Args:
            prefix: token ids, at least one.
            top: the result holds the ``top`` most likely ids ...
            ids: ... and these ids.
        """

    def session(self, name: str) -> Engine:
        """Return this engine as seen by one search: with its own ``usage`` and, where there is one, its own cache.

        Args:
            name: tells searches apart; engines with several servers keep equal names on one server.
        """
        return self

    async def pin(self, prefix: Sequence[int]) -> None:
        """Announce a prefix that requests of many sessions will begin with, so that it is computed once."""
        return None

    def commit(self, prefix: Sequence[int]) -> None:
        """Announce that requests of this session that share a root with ``prefix`` now contain it whole.

        Caches drop what no such request can reach. It changes no answer.
        """
        return None

    async def close(self) -> None:
        """Release what the session, or the whole engine, holds."""
        return None
