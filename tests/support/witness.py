"""An engine around an engine that keeps every answer, and the check of all of them by plain forward passes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from support.tiny_models import plain_logprobs
from transformers import PreTrainedModel

from rain.core.engine import Continuation, Engine, SamplingParams, Session
from rain.core.types import Tokens


@dataclass
class Log:
    """What was requested and answered.

    Attributes:
        drawn: (prefix, params, answers).
        known: (prefix, log-probabilities).
    """

    drawn: list[tuple[Tokens, SamplingParams, list[Continuation]]] = field(default_factory=list)
    known: list[tuple[Tokens, dict[int, float]]] = field(default_factory=list)


class WitnessSession(Session):
    """Hands requests on to a session and keeps the answers."""

    def __init__(self, session: Session, log: Log) -> None:
        self.session, self.log = session, log
        self.usage = session.usage

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        answers = await self.session.generate(prefix, params)
        self.log.drawn.append((tuple(prefix), params, answers))
        return answers

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        answer = await self.session.next_logprobs(prefix, top=top, ids=ids)
        self.log.known.append((tuple(prefix), answer))
        return answer

    def commit(self, prefix: Sequence[int]) -> None:
        self.session.commit(prefix)

    async def close(self) -> None:
        await self.session.close()


class Witness(Engine):
    """An engine whose sessions keep their answers in one log."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.log = engine, Log()
        self.context, self.eos = engine.context, engine.eos

    def session(self, name: str) -> WitnessSession:
        return WitnessSession(self.engine.session(name), self.log)

    async def cache_prefix(self, prefix: Sequence[int]) -> None:
        await self.engine.cache_prefix(prefix)


def largest_error(log: Log, model: PreTrainedModel) -> float:
    """Return the largest difference of a log-probability (nats) from plain passes over each whole sequence.

    Raises:
        AssertionError: a token is none of the top-k, or a greedy one is not the most likely.
    """
    error = 0.0
    for prefix, answer in log.known:
        row = plain_logprobs(model, prefix)[-1]
        error = max(error, *(abs(row[token].item() - logprob) for token, logprob in answer.items()))
    for prefix, params, answers in log.drawn:
        for i, answer in enumerate(answers):
            rows = plain_logprobs(model, prefix + answer.tokens)[len(prefix) - 1 : -1]
            for token, logprob, row in zip(answer.tokens, answer.logprobs, rows, strict=True):
                best, ids = torch.topk(row / params.temperature, params.top_k or len(row))
                place = ids.tolist().index(token)
                assert place == 0 or not (params.greedy_first and i == 0)
                error = max(error, abs(best.log_softmax(0)[place].item() - logprob))
    return error


def computed_tokens(log: Log) -> int:
    """Return how many tokens have to go through the model, if each place in the tree of all sequences goes once."""
    places: set[Tokens] = set()
    for prefix, _ in log.known:
        places.update(prefix[: i + 1] for i in range(len(prefix)))
    for prefix, _, answers in log.drawn:
        for answer in answers:
            whole = prefix + answer.tokens[:-1]
            places.update(whole[: i + 1] for i in range(len(whole)))
    return len(places)
