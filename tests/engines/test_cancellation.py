"""Searches that are cancelled at any moment leave nothing behind and change nothing for the others."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace

import pytest
from support.completions_server import QUICK, engine_on, serving
from support.tiny_models import LetterEncoder, letter_tokenizer, tiny_engine, tiny_model
from support.tiny_task import decisions, make_task
from support.witness import Log, Witness, WitnessSession

from rain.aligner import Aligner
from rain.core.config import RainConfig
from rain.data.datasets import Prompt
from rain.encoder import MeanPoolingEncoder
from rain.engines.local.engine import HfEngine
from rain.engines.reference import ReferenceEngine
from rain.engines.toy import ToyEngine, ToyTokenizer
from rain.settings import make_settings

SMALLEST = {"max_simulations": 2, "extra_simulations": 1, "min_visits": 1, "max_new_tokens": 3, "candidates": 2}
SEEDS = 20
TURNS = 50


def small_task(folder):
    return replace(make_task(folder), config=RainConfig(**SMALLEST, max_draws=2))


class Clock(Witness):
    """An engine that calls a function with the number of each request, before it is made."""

    def __init__(self, engine, tick):
        super().__init__(engine)
        self.tick, self.count, self.dtype = tick, 0, engine.dtype

    def session(self, name):
        return ClockSession(self.engine.session(name), self)


class ClockSession(WitnessSession):
    def __init__(self, session, clock):
        super().__init__(session, Log())
        self.clock = clock

    def note(self):
        self.clock.count += 1
        self.clock.tick(self.clock.count)

    async def generate(self, prefix, params):
        self.note()
        return await super().generate(prefix, params)

    async def next_logprobs(self, prefix, *, top=0, ids=()):
        self.note()
        return await super().next_logprobs(prefix, top=top, ids=ids)


async def answers(task, engine, count, tick=lambda number: None, tasks=None, prefetch=0):
    """Answer prompts at once, each by RAIN and greedily; return what was decided, None for a cancelled prompt."""
    encoder = MeanPoolingEncoder(LetterEncoder().requires_grad_(False), letter_tokenizer)
    config = make_settings(task, {"modelname": "tiny"}).aligner
    aligner = Aligner(config, Clock(engine, tick), ToyTokenizer(), encoder, prefetch=prefetch)
    await aligner.warm_up()
    tasks, before = [] if tasks is None else tasks, asyncio.all_tasks()
    tasks += [asyncio.create_task(aligner.record(Prompt(f"p-{i}", f"Is {i} odd?"))) for i in range(count)]
    found = await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(TURNS):  # what was cancelled last ends
        await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before, "nothing keeps running in the background"
    return [None if isinstance(record, asyncio.CancelledError) else decisions(record) for record in found], aligner


def cancel_at_random(seed, count, requests):
    """Return tasks to be filled, and what cancels about half of them, each at a random request of whomever."""
    rng, tasks = random.Random(seed), []
    victims, moments = rng.sample(range(count), count // 2), {}
    for victim in victims:
        moments.setdefault(rng.randrange(1, requests), []).append(victim)

    def tick(number):
        for victim in moments.get(number, ()):
            tasks[victim].cancel()

    return tasks, tick


def held(engine):
    """Return what an engine keeps for its searches: trees and requests, or places on servers."""
    if isinstance(engine, HfEngine):
        return [*engine.scheduler.trees, *engine.scheduler.requests]
    return dict(engine.pool.places) if hasattr(engine, "pool") else []


def same(one, other, prefetch):
    """Compare decisions; how much was asked, too, unless some was asked ahead."""
    counts = ("evaluations", "requests") if prefetch else ()
    return all(one[name] == other[name] for name in one if name not in counts)


def survive(task, engine, count, seeds, prefetch=0):
    before = held(engine)
    whole, aligner = asyncio.run(answers(task, engine, count))
    requests, cancelled = aligner.engine.count, 0
    assert all(record["moves"] for record in whole)
    for seed in range(seeds):
        tasks, tick = cancel_at_random(seed, count, requests // 2)
        found, _ = asyncio.run(answers(task, engine, count, tick, tasks, prefetch))
        cancelled += found.count(None)
        assert all(one is None or same(one, other, prefetch) for one, other in zip(found, whole, strict=True))
        assert held(engine) == before
    assert cancelled > seeds * count // 4
    print(
        f"{type(engine).__name__}: {seeds} seeds x {count} searches, {cancelled} cancelled, {requests} requests a run"
    )


@pytest.fixture
def task(tmp_path):
    return small_task(tmp_path)


EVICTING = {"cache_tokens": 500, "max_batch_tokens": 64}
ENGINES = {
    "toy": (ToyEngine, 50, SEEDS),
    "reference": (lambda: ReferenceEngine(tiny_model(), ToyTokenizer()), 50, SEEDS),
    "tree cache": (tiny_engine, 50, SEEDS),
    "evicting all the time": (lambda: tiny_engine(**EVICTING), 12, 5),
}


@pytest.mark.parametrize("name", ENGINES)
def test_searches_in_this_process(task, name):
    open_engine, count, seeds = ENGINES[name]
    survive(task, open_engine(), count, seeds)


@pytest.mark.parametrize("options", [{}, EVICTING])
def test_searches_that_compute_ahead_on_the_tree_cache(task, options):
    longer = replace(task, config=RainConfig(**{**SMALLEST, "max_simulations": 6, "candidates": 4}, max_draws=3))
    survive(longer, tiny_engine(**options), 12, 5, prefetch=50)


def test_fifty_searches_on_two_servers(task):
    with serving(context=2048) as first, serving(context=2048) as second:
        survive(task, engine_on(first, second, policy=replace(QUICK, reply=60.0, retry=60.0)), 50, SEEDS)


@pytest.mark.parametrize("takes_turns", [True, False])
def test_a_cancelled_text_does_not_keep_the_encoder_from_the_others(monkeypatch, takes_turns):
    encoder, threads = MeanPoolingEncoder(LetterEncoder().requires_grad_(False), letter_tokenizer), set()
    assert encoder.takes_turns, "it is on the CPU"
    encoder.takes_turns, embed = takes_turns, encoder.embed

    def recorded(texts):
        threads.add(threading.current_thread())
        return embed(texts)

    monkeypatch.setattr(encoder, "embed", recorded)

    async def run(rng):
        tasks = [asyncio.create_task(encoder.encode([f"{rng.random()}"])) for _ in range(8)]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        tasks[rng.randrange(8)].cancel()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    for seed in range(SEEDS):
        outcomes = asyncio.run(run(random.Random(seed)))
        cancelled = [outcome for outcome in outcomes if isinstance(outcome, asyncio.CancelledError)]
        assert len(cancelled) == 1 or (takes_turns and not cancelled)  # there it may be done already
        assert all(len(outcome[0]) == 16 for outcome in outcomes if outcome not in cancelled)
    assert (threads == {threading.current_thread()}) is takes_turns
