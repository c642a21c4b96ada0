"""The engine contract: token ids in, token ids out.

An engine is a language model and knows nothing of tasks, trees or scores. A session is one search's view of it: a cache
of its own, counters of its own. Every implementation passes ``tests/engines/contract.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from rain.core.errors import RainError
from rain.core.stop import Stop
from rain.core.types import Tokens, Vector

SHARERS = "RAIN_MEMORY_SHARERS"
"""Environment variable: how many workers share the memory of an engine's device."""

Purpose = Literal["baseline", "expand", "add", "rollout"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue a prefix.

    Attributes:
        max_tokens: maximum length of each continuation, at least 1.
        n: number of continuations, at least 1, independent of each other; equal ones are not removed.
        temperature: above 0.
        top_k: draw from this many most likely tokens; 0 draws from the whole vocabulary.
        greedy_first: the first continuation takes the most likely token each time; the others are drawn.
        stop: ends continuations early.
        seed: continuation i draws from a stream that depends on ``(seed, first + i)`` alone.
        first: number of the first continuation, where others of this seed were asked for before.
        logprobs: whether log-probabilities of the tokens are needed; if not, engines may leave them out.
        purpose: what the continuations are for; no engine decides by it but one that replays a recording.

    Raises:
        RainError: n or max_tokens is below 1.
    """

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    greedy_first: bool = False
    stop: Stop = Stop()
    seed: int = 0
    first: int = 0
    logprobs: bool = True
    purpose: Purpose = "baseline"

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1:
            raise RainError(f"sampling needs n and max_tokens of at least 1, not {self.n} and {self.max_tokens}")


class Continuation(NamedTuple):
    """One continuation of a prefix.

    Attributes:
        tokens: the generated ids, without the prefix, the stopping token included.
        logprobs: for each token its log-probability under the distribution it was drawn from: after temperature and
            top-k, renormalised over the top-k tokens. A greedy continuation is scored under the same distribution.
            Without ``SamplingParams.logprobs`` they may be missing: ().
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

    def __add__(self, other: Usage) -> Usage:
        """Return the sum of each counter."""
        return Usage(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def as_dict(self) -> dict[str, int | float]:
        """Return the counters by name, times to the millisecond."""
        return {field.name: round(getattr(self, field.name), 3) for field in fields(self)}


class EngineStats(NamedTuple):
    """What an engine has done for all of its sessions.

    Attributes:
        passes: forward passes (count).
        model_seconds: time spent in them.
        evictions: how often cached tokens were dropped for lack of room (count).
    """

    passes: int = 0
    model_seconds: float = 0.0
    evictions: int = 0


class ReadOut(NamedTuple):
    """A number for each token: the product of its hidden state with a vector.

    Attributes:
        layer: number of the decoder layer whose output is taken, from 1 (before the final norm).
        weights: shape (hidden size,).
    """

    layer: int
    weights: Vector


class Session(ABC):
    """One search's view of a model, with its own cache; methods may be awaited concurrently.

    The same request with the same seed gives the same answer whatever else runs at the same time, up to the rounding
    of the device: batches of another size round otherwise, by some 1e-5 in float32, which hardly ever changes a token.

    Attributes:
        usage: what the session has cost.
    """

    usage: Usage

    @abstractmethod
    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        """Continue ``prefix`` (token ids, at least one) ``params.n`` times.

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
            top: the result has the ``top`` most likely ids ...
            ids: ... and these ids.
        """

    async def read_out(self, prefix: Sequence[int], start: int, usage: Usage | None = None) -> Vector:
        """Return the mean of each read-out over the tokens ``prefix[start:]``, at least one: (read-outs,).

        Args:
            prefix: ids from the first of the context on.
            start: where the text begins that is read.
            usage: what the cost is added to; None: that of the session.

        Raises:
            RainError: the engine has no read-outs.
        """
        raise RainError("this engine cannot read hidden states; use --engine hf")

    def commit(self, prefix: Sequence[int]) -> None:
        """Announce that later requests of this session that share a root with ``prefix`` contain all of it.

        Caches may drop what no such request can reach; no answer changes.
        """
        return None

    async def close(self) -> None:
        """Release the session's cache; a second call does nothing."""
        return None


class Engine(ABC):
    """A causal language model behind token ids.

    Attributes:
        context: maximum length of a prefix (tokens).
        vocabulary: number of token ids that the model has; 0: it is not known.
        eos: ids with which the model ends a response; there may be several, or none.
        dtype: number format of the weights, for the records.
        batches: whether requests that are made at the same time share passes, so that a search may compute ahead.
    """

    context: int
    vocabulary: int = 0
    eos: tuple[int, ...] = ()
    dtype: str = "unknown"
    batches: bool = True

    @abstractmethod
    def session(self, name: str) -> Session:
        """Return a new session.

        Args:
            name: tells searches apart; engines with several servers send equal names to the same one.
        """

    def check_request(self, prefix: Sequence[int], max_tokens: int = 1, ids: Collection[int] = ()) -> None:
        """Refuse a request that the model cannot answer.

        Raises:
            RainError: the prefix is empty, the whole is longer than the context, or the model lacks an id of the
                prefix or of ``ids``.
        """
        if not prefix:
            raise RainError("an engine needs at least one token of prefix")
        if len(prefix) + max_tokens - 1 > self.context:
            wanted = f"{len(prefix)} + {max_tokens} tokens"
            raise RainError(f"{wanted} do not fit into the model's context of {self.context}")
        named = (*prefix, *ids)
        if self.vocabulary and not 0 <= min(named) <= max(named) < self.vocabulary:
            raise RainError(f"there is a token id that the model lacks, whose ids are below {self.vocabulary}")

    async def cache_prefix(self, prefix: Sequence[int]) -> None:
        """Compute a prefix that requests of many sessions begin with, once for all of them."""
        return None

    def cached_tokens(self, prefix: Sequence[int]) -> int:
        """Return how many tokens of a prefix were computed by ``cache_prefix``, so that no session has to."""
        return 0

    def set_read_outs(self, read_outs: Sequence[ReadOut]) -> None:
        """Compute these numbers for every token from now on; called once, before the first request.

        Raises:
            RainError: the engine cannot read hidden states, or the model has no such layer or size.
        """
        raise RainError("this engine cannot read hidden states; use --engine hf")

    def stats(self) -> EngineStats:
        """Return totals over all sessions; zeros where the model runs in another program."""
        return EngineStats()

    async def close(self) -> None:
        """Release everything that the engine holds."""
        return None
