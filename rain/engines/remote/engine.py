"""What engines share whose model another program runs: exact log-probabilities out of the few that it returns.

Such a program (a server, vLLM in process) returns for each generated token the raw log-probabilities (natural log,
temperature 1, whole vocabulary) of the most likely tokens. With at least top-k of them, ``lp / T - logsumexp(lp / T)``
over the top-k is the log-probability after temperature T and top-k, exactly.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rain.core.engine import Continuation, Engine, Stop, Usage, check_request
from rain.core.errors import RainError
from rain.core.types import Tokens

TOP = 20
"""Log-probabilities for each token that are always to be had; the default limit of vLLM."""

WHOLE = -1
"""Stands for the log-probabilities of the whole vocabulary."""


class Ask(NamedTuple):
    """One request to the program that runs the model.

    Attributes:
        prefix: token ids.
        n: number of samples.
        max_tokens: length limit of each.
        temperature: 0 takes the most likely token each time.
        top_k: 0 draws from the whole vocabulary.
        stop: see ``Stop``; the end-of-sequence token ends nothing unless it is listed.
        seed: sample i draws from a stream of its own, that of ``seed + i``.
        logprobs: how many log-probabilities are wanted for each token, or WHOLE.
    """

    prefix: Tokens
    n: int
    max_tokens: int
    temperature: float
    top_k: int
    stop: Stop
    seed: int
    logprobs: int


class Sample(NamedTuple):
    """One sample.

    Attributes:
        tokens: ids, the stopping one included.
        tops: for each token the raw log-probabilities of the most likely ids and of the token itself.
        finish: why it ended.
        text: as the program reads it, if it does.
    """

    tokens: Tokens
    tops: Sequence[Mapping[int, float]]
    finish: Literal["stop", "length"]
    text: str = ""


class Answer(NamedTuple):
    """The samples of a request, and how many tokens of its prefix came out of a cache."""

    samples: list[Sample]
    cached: int


def drawn_logprob(top: Mapping[int, float], token: int, temperature: float, top_k: int) -> float:
    """Return the log-probability of a token after temperature and top-k.

    Tokens that are as likely as the k-th count as among the k, as they do when vLLM draws.

    Args:
        top: raw log-probabilities of the most likely tokens and of ``token``, at least ``top_k`` of them.
        token: one of them.
        temperature: above 0.
        top_k: 0 for the whole vocabulary, which ``top`` must then hold unless the temperature is 1.

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


def first_stop(tokens: Sequence[int], stop: Stop, decode: Callable[[list[int]], str]) -> int | None:
    """Return the number of tokens up to and with the first that ends a continuation, None if none does."""
    span = 4 * max((len(string) for string in stop.strings), default=0) + 4
    for end, token in enumerate(tokens, 1):
        if token in stop.token_ids:
            return end
        text = decode(list(tokens[max(0, end - span) : end])) if stop.strings else ""
        if any(string in text for string in stop.strings):
            return end
    return None


def request_stream(seed: int) -> int:
    """Return a seed of 30 bits, which every server takes, even with an index added to it."""
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest(), "big") >> 2


class ServedEngine(Engine):
    """The engine contract on top of one method, ``_complete``.

    ``usage`` counts a request as one forward pass for each token of its longest sample; how many tokens were cached is
    what the program says.

    Args:
        tokenizer: the model's.
        limit: longest sequence in tokens, the generated ones included.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer = tokenizer
        self.context = limit - 1  # the last token generated counts there, although it never goes through the model
        self.usage = Usage()

    @abstractmethod
    async def _complete(self, ask: Ask) -> Answer:
        """Have a request answered; samples may run on behind a stop.

        Raises:
            RainError: the program refuses the request, or cannot be reached.
        """

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
        """See ``Engine.generate``; the greedy continuation is a request of its own, beside that for the others."""
        check_request(prefix, self.context, n, max_tokens)
        logprobs = top_k or (1 if temperature == 1 else WHOLE)
        ask = Ask(tuple(prefix), n - greedy_first, max_tokens, temperature, top_k, stop, request_stream(seed), logprobs)
        asks = [ask._replace(seed=ask.seed + greedy_first)] if ask.n else []
        if greedy_first:
            asks.insert(0, ask._replace(n=1, temperature=0.0, top_k=0))
        samples = await self._answered(asks)
        return [self._continuation(sample, temperature, top_k, stop) for sample in samples]

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Engine.next_logprobs``; ids out of the most likely TOP get a floor.

        The floor is the smallest of the returned log-probabilities: an upper bound for any token that was not returned.
        More than TOP most likely tokens are asked for only where ``top`` or the number of ``ids`` is larger.
        """
        check_request(prefix, self.context)
        ask = Ask(tuple(prefix), 1, 1, 0.0, 0, Stop(), 0, max(TOP, top, len(ids)))
        [sample] = await self._answered([ask])
        ranked = sorted(sample.tops[0].items(), key=lambda item: (-item[1], item[0]))
        if len(ranked) < top:
            raise RainError(f"{top} log-probabilities were asked for, and the model's server returns {len(ranked)}")
        known, floor = dict(ranked), ranked[-1][1]
        return {**dict(ranked[:top]), **{token: known.get(token, floor) for token in ids}}

    async def pin(self, prefix: Sequence[int]) -> None:
        """Have the prefix computed, so that the program's cache holds it."""
        check_request(prefix, self.context)
        await self._warm(Ask(tuple(prefix), 1, 1, 0.0, 0, Stop(), 0, 1))

    async def _warm(self, ask: Ask) -> None:
        """Have a request answered wherever later ones may go."""
        await self._complete(ask)

    async def _answered(self, asks: Sequence[Ask]) -> list[Sample]:
        """Have requests answered at the same time; count them as one."""
        answers = await asyncio.gather(*(self._complete(ask) for ask in asks))
        self.usage.requests += 1
        self.usage.forward_passes += max(len(sample.tokens) for answer in answers for sample in answer.samples)
        for ask, answer in zip(asks, answers, strict=True):
            later = sum(len(sample.tokens) - 1 for sample in answer.samples)
            self.usage.tokens_computed += len(ask.prefix) - answer.cached + later
            self.usage.tokens_reused += answer.cached
        return [sample for answer in answers for sample in answer.samples]

    def _continuation(self, sample: Sample, temperature: float, top_k: int, stop: Stop) -> Continuation:
        end = first_stop(sample.tokens, stop, self._decode)
        tokens = sample.tokens[:end]
        logprobs = (drawn_logprob(top, t, temperature, top_k) for top, t in zip(sample.tops, tokens, strict=False))
        return Continuation(tokens, tuple(logprobs), sample.finish if end is None else "stop")

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
