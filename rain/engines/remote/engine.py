"""Base class for engines whose model runs elsewhere: exact log-probabilities from the top-k it returns.

Such a program (a server, vLLM in process) returns for each generated token the raw log-probabilities (natural log,
temperature 1, whole vocabulary) of the most likely tokens. With at least top-k of them, ``lp / T - logsumexp(lp / T)``
over the top-k is the log-probability after temperature T and top-k, exactly.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from rain.core.concurrency import gather_or_cancel
from rain.core.engine import Continuation, Engine, SamplingParams, Session, Usage
from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.models.info import decoder, end_ids

TOP = 20
"""Log-probabilities for each token that are always available; the default limit of vLLM."""

WHOLE = -1
"""Stands for the log-probabilities of the whole vocabulary."""


class CompletionRequest(NamedTuple):
    """One request to the program that runs the model.

    Attributes:
        prefix: token ids.
        params: how to continue it; sample i draws from the stream of ``seed + i``. ``greedy_first`` is for requests
            with one sample only.
        logprobs: how many log-probabilities are needed for each token, or WHOLE; 0: none, not even the token's own.
    """

    prefix: Tokens
    params: SamplingParams
    logprobs: int


class Sample(NamedTuple):
    """One sample.

    Attributes:
        tokens: ids, the stopping one included.
        tops: for each token the raw log-probabilities of the most likely ids and of the token itself; may be () where
            none were requested.
        finish: why it ended.
        text: as the program reads it, if it does.
    """

    tokens: Tokens
    tops: Sequence[Mapping[int, float]]
    finish: Literal["stop", "length"]
    text: str = ""


class CompletionResult(NamedTuple):
    """The samples of a request, and how many tokens of its prefix came out of a cache."""

    samples: list[Sample]
    cached: int


def greedy_request(prefix: Sequence[int], max_tokens: int, logprobs: int) -> CompletionRequest:
    """Return a request for the most likely tokens."""
    return CompletionRequest(tuple(prefix), SamplingParams(max_tokens, greedy_first=True), logprobs)


def drawn_logprob(top: Mapping[int, float], token: int, temperature: float, top_k: int) -> float:
    """Return the log-probability of a token after temperature and top-k.

    Tokens that are as likely as the k-th count as among the k, as they do when vLLM draws.

    Args:
        top: raw log-probabilities of the most likely tokens and of ``token``, at least ``top_k`` of them.
        token: one of them.
        temperature: above 0.
        top_k: 0 for the whole vocabulary, which ``top`` must then have unless the temperature is 1.

    Raises:
        RainError: there are too few log-probabilities.
    """
    if not top_k and temperature == 1:
        return top[token]
    ranked = sorted(top.values(), reverse=True)
    if len(ranked) < top_k or (not top_k and sum(map(math.exp, ranked)) < 0.999):
        raise RainError(
            f"top_k {top_k} at temperature {temperature} needs {top_k or 'all'} log-probabilities for each token, and "
            f"there are {len(ranked)}; raise the limit of the server (vLLM: --max-logprobs) or lower top_k"
        )
    least = ranked[top_k - 1] if top_k else -math.inf
    kept = [math.exp((value - ranked[0]) / temperature) for value in ranked if value >= least]
    return (top[token] - ranked[0]) / temperature - math.log(sum(kept))


def request_stream(seed: int) -> int:
    """Return a seed of 30 bits, which every server takes, even with an index added to it."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 2  # 32 bits to 30


class RemoteEngine(Engine):
    """A model that another program runs: one method, ``complete``, to be filled in.

    Args:
        tokenizer: the model's.
        limit: longest sequence in tokens, the generated ones included.
        eos: the model's end ids; () where nothing but the tokenizer is known of it.

    Attributes:
        exact: whether the log-probability of any id is worth a second request, for the whole vocabulary.
    """

    exact = False

    def __init__(self, tokenizer: Any, limit: int, eos: tuple[int, ...] = ()) -> None:
        self.tokenizer, self.decode = tokenizer, decoder(tokenizer)
        self.context = limit - 1  # the last token generated counts there, although it never goes through the model
        self.eos = eos or end_ids(None, tokenizer)

    @abstractmethod
    async def complete(self, request: CompletionRequest, name: str) -> CompletionResult:
        """Have a request of the session with this name answered; samples may continue after a stop.

        Raises:
            RainError: the program refuses the request, or cannot be reached.
        """

    def session(self, name: str) -> Session:
        """See ``Engine.session``."""
        return RemoteSession(self, name)

    def opened(self, name: str) -> None:
        """Learn that a session with this name makes its first request."""
        return None

    def release(self, name: str) -> None:
        """Learn that such a session is closed."""
        return None

    async def cache_prefix(self, prefix: Sequence[int]) -> None:
        """Have the prefix computed, so that the program's cache has it."""
        self.check_request(prefix)
        await self.complete(greedy_request(prefix, 1, 1), "")


class RemoteSession(Session):
    """One search's requests.

    ``usage`` counts a request as one forward pass for each token of its longest sample; how many tokens were cached is
    what the program says.
    """

    def __init__(self, engine: RemoteEngine, name: str) -> None:
        self.engine, self.name = engine, name
        self.usage = Usage()
        self._open = False

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        """See ``Session.generate``; the greedy continuation is a request of its own, sent with that for the others."""
        self.engine.check_request(prefix, params.max_tokens)
        needed = (params.top_k or (1 if params.temperature == 1 else WHOLE)) if params.logprobs else 0
        greedy = int(params.greedy_first)
        parts = [replace(params, n=1, top_k=0, seed=0)] if greedy else []
        if params.n > greedy:
            seed = request_stream(params.seed) + params.first + greedy
            parts.append(replace(params, n=params.n - greedy, seed=seed, greedy_first=False))
        samples = await self._complete([CompletionRequest(tuple(prefix), part, needed) for part in parts])
        self.usage.requests += 1
        return [self._continuation(sample, params) for sample in samples]

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Session.next_logprobs``; unless the engine is exact, ids that are not among the TOP get a floor.

        The floor is the smallest of the returned log-probabilities: an upper bound for any token that was not returned.
        More than TOP are requested only where ``top`` or the number of ``ids`` is larger.
        """
        self.engine.check_request(prefix)
        [sample] = await self._complete([greedy_request(prefix, 1, max(TOP, top, len(ids)))])
        if self.engine.exact and not sample.tops[0].keys() >= set(ids):
            [sample] = await self._complete([greedy_request(prefix, 1, WHOLE)])
        self.usage.requests += 1
        ranked = sorted(sample.tops[0].items(), key=lambda item: (-item[1], item[0]))
        if len(ranked) < top:
            raise RainError(f"{top} log-probabilities were requested, and the model's server returns {len(ranked)}")
        known, floor = dict(ranked), ranked[-1][1]
        return {**dict(ranked[:top]), **{token: known.get(token, floor) for token in ids}}

    async def close(self) -> None:
        """Make room on the server for others."""
        if self._open:
            self._open = False
            self.engine.release(self.name)

    async def _complete(self, requests: Sequence[CompletionRequest]) -> list[Sample]:
        """Have requests answered at the same time, and count what they cost."""
        if not self._open:  # not earlier: nobody closes a session that is never used
            self._open = True
            self.engine.opened(self.name)
        results = await gather_or_cancel(*(self.engine.complete(request, self.name) for request in requests))
        self.usage.forward_passes += max(len(sample.tokens) for result in results for sample in result.samples)
        for request, result in zip(requests, results, strict=True):
            later = sum(len(sample.tokens) - 1 for sample in result.samples)
            self.usage.tokens_computed += len(request.prefix) - result.cached + later
            self.usage.tokens_reused += result.cached
        return [sample for result in results for sample in result.samples]

    def _continuation(self, sample: Sample, params: SamplingParams) -> Continuation:
        """Cut a sample at its stop, and score it if need be."""
        end = params.stop.position(sample.tokens, self.engine.decode)
        pairs = zip(sample.tops if params.logprobs else (), sample.tokens[:end], strict=False)
        logprobs = (drawn_logprob(top, token, params.temperature, params.top_k) for top, token in pairs)
        return Continuation(sample.tokens[:end], tuple(logprobs), sample.finish if end is None else "stop")
