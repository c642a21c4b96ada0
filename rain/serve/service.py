"""The server's state, and the searches of one request as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from time import monotonic, time
from typing import Any

from rain.core.concurrency import cancel_all, run_within
from rain.core.config import Budget
from rain.core.errors import PromptTooLong, RainError, WorkerFault, is_broken_device
from rain.events import Event
from rain.generation import Answer
from rain.library import Rain
from rain.serve.admission import Admission
from rain.serve.budgets import BudgetRules
from rain.serve.config import ServeConfig
from rain.serve.errors import ApiError, unavailable
from rain.serve.keys import Keys
from rain.serve.metrics import Metrics
from rain.serve.models import Models
from rain.serve.replies import AnswerJob

MOMENT = 1e-3
"""Seconds of an answer for which no time is left; it is empty, or what can be said in one pass."""

Item = tuple[int, Event]
"""The number of a choice, and what it sends."""


class Service:
    """What all requests share.

    Args:
        config: of the server.
        budget: of answers that ask for none, as ``--budget`` takes it.
        log: writes one line of JSON.

    Attributes:
        rules, keys, admission, metrics: as the settings say.
        rain: answers; None while it is loading.
        models: what clients may name.
        fingerprint: of settings and weights.
        draining: whether the server is about to end.
        broken: why no answer is possible any more; empty: it is.
        ending: called when that happens.
        started: Unix time (seconds).
    """

    def __init__(self, config: ServeConfig, budget: str, log: Callable[[dict[str, Any]], None]) -> None:
        self.config, self.log = config, log
        self.keys = Keys.from_file(config.api_key_file) if config.api_key_file else Keys({})
        self.rules = BudgetRules.from_texts(budget, config.max_budget)
        self.admission = Admission(config.concurrency, config.max_queue)
        self.metrics = Metrics(self.admission)
        self.rain: Rain | None = None
        self.models, self.fingerprint = Models(""), ""
        self.draining, self.broken, self.started = False, "", time()
        self.ending: Callable[[], None] = lambda: None
        self._live: set[asyncio.Queue[Item | Exception]] = set()

    def ready(self) -> Rain:
        """Return what answers.

        Raises:
            ApiError: 503, it is loading or the server is about to end.
        """
        if self.draining and not self.broken:
            raise unavailable("the server is shutting down")
        return self.ready_to_go()

    async def events(self, job: AnswerJob) -> AsyncGenerator[Item | None, None]:
        """Run the searches of a request; yield what they send, and None after each silence.

        What has no text breaks no silence, as the client gets nothing.
        """
        found: asyncio.Queue[Item | Exception] = asyncio.Queue()
        tasks = [asyncio.create_task(self._search(job, i, found)) for i in range(job.choices)]
        self._live.add(found)
        try:
            left, spoken = len(tasks), monotonic()
            while left:
                got = await run_within(found.get(), max(0.0, spoken + job.silence - monotonic()))
                if not got:
                    yield None
                    spoken = monotonic()
                    continue
                [item] = got
                if isinstance(item, Exception):
                    raise item
                ended = isinstance(item[1], Answer)
                left -= ended
                yield item
                if ended or item[1].text:
                    spoken = monotonic()
        finally:
            self._live.discard(found)
            await cancel_all(tasks)

    async def _search(self, job: AnswerJob, index: int, found: asyncio.Queue[Item | Exception]) -> None:
        """Run one search when its turn comes; errors are sent, too."""
        try:
            async with self.admission.turn():
                prompt = replace(job.prompt, seed=job.prompt.seed + index)
                rounds = -(-(job.choices - index) // self.config.concurrency)  # of choices that run side by side
                budget = _within(job.budget, job.deadline, rounds, started=index > 0)
                rain, (plain, drafts) = self.ready_to_go(), job.served
                best = replace(rain.settings.aligner.method, method="best-of-n", n=drafts) if drafts else None
                options: dict[str, Any] = {"plain": plain, "budget": budget, "evaluator": job.evaluator, "method": best}
                async with aclosing(rain.aevents(prompt, **options)) as events:
                    async for event in events:
                        found.put_nowait((index, event))
        except Exception as error:
            found.put_nowait(error)

    def ready_to_go(self) -> Rain:
        """Return what answers requests that were admitted, also while the server drains."""
        if self.rain is None or self.broken:
            raise unavailable(self.broken or "the model is loading")
        return self.rain

    def end_all(self, reason: str) -> None:
        """End all answers in progress with an error."""
        for found in self._live:
            found.put_nowait(unavailable(reason))

    def failure(self, error: Exception, param: str = "messages") -> ApiError:
        """Return the error that a client gets for one that the library raised; a broken device ends the server.

        Args:
            error: what was raised.
            param: the field with the prompt.
        """
        if isinstance(error, ApiError):
            return error
        if isinstance(error, PromptTooLong):
            sizes: Any = {"n_prompt_tokens": error.tokens, "n_ctx": error.context}
            words = f"{error}; this model's maximum context length is {error.context} tokens"  # which LiteLLM looks for
            return ApiError(400, words, "context_length_exceeded", param, **sizes)
        if isinstance(error, WorkerFault):
            return unavailable(str(error))
        if is_broken_device(error):
            self.broken = f"the device has failed ({type(error).__name__}); start the server again"
            self.end_all(self.broken)
            self.ending()
            return unavailable(self.broken)
        what = str(error) if isinstance(error, RainError) else f"the model failed ({type(error).__name__})"
        return ApiError(500, what, "engine_error")


def _within(budget: Budget, deadline: float | None, rounds: int, *, started: bool) -> Budget:
    """Return the budget of a choice that ends with its share of the client's patience.

    Args:
        budget: that was asked for.
        deadline: end of the patience (``time.monotonic``); None: there is none.
        rounds: this choice and those after it run in so many turns, at least.
        started: whether other choices of the request have run: then what they said is worth more than this one.

    Raises:
        ApiError: the patience has ended while the whole request waited.
    """
    if deadline is None:
        return budget
    left = (deadline - monotonic()) / rounds
    if left <= 0 and not started:
        raise ApiError(429, "the request waited longer than its client does", "rate_limit_exceeded")
    left = max(left, MOMENT)
    return replace(budget, seconds=min(left, budget.seconds or left))
