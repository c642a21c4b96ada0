"""The aligner: records, limits that fit the context, commits as they happen."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from support.tiny_task import make_aligner, make_task, prompts, records
from support.watched import WatchedEngine

from rain.core.config import Budget
from rain.core.errors import RainError
from rain.core.search import Search
from rain.data.datasets import Prompt
from rain.methods.tree_search import TreeSearch
from rain.records import error_record
from rain.results.jsonl import PROMPTS_OWN


@pytest.fixture
def engine():
    return WatchedEngine()


@pytest.fixture
def aligner(tmp_path, engine):
    return make_aligner(make_task(tmp_path), engine)


def test_a_record_has_its_origin_the_fields_of_its_prompt_and_the_target(tmp_path, engine):
    aligner = make_aligner(make_task(tmp_path, targets=("kind", "unkind")), engine, target="unkind")
    [record] = records(aligner, [Prompt("tiny-7", "Why?", {"label": "x"})])
    expected = {"id": "tiny-7", "question": "Why?", "label": "x", "target": "unkind", "seed": 0, "dtype": "float64"}
    assert {**expected, "config": aligner.config.hash}.items() <= record.items()
    assert set(record["cost"]["plain"]) <= set(record["cost"]["rain"])


@pytest.mark.parametrize("question", ["", "x" * 70_000])
def test_a_prompt_that_fails_gives_an_error_record_and_the_others_answers(question, aligner, engine):
    bad, good = records(aligner, prompts(question, "Why?"))
    assert bad.pop(PROMPTS_OWN) and {"id", "question", "error", "model", "seed", "config"} == set(bad)
    assert good["raina"]
    assert engine.active == 0
    assert bad == error_record(aligner.config, prompts(question)[0], bad["error"])


def test_a_prompt_of_ten_million_characters_is_refused_before_it_is_tokenised(aligner, engine):
    engine.context = 2048

    class Unread(type(aligner.adapter)):
        def encode(self, text):
            raise AssertionError("it was tokenised")

    aligner.adapter.__class__ = Unread
    for prompt in ("7" * 10_000_000, [{"role": "user", "content": "7" * 10_000_000}]):
        with pytest.raises(RainError, match="10000000 characters leaves no room"):
            aligner.prepare("p", prompt)


def test_every_session_of_a_record_is_closed_and_belongs_to_its_prompt(aligner, engine):
    records(aligner, prompts("one", "two"), concurrency=2)
    assert sorted(engine.opened) == sorted(f"tiny-0000{i}{end}" for i in (0, 1) for end in ("", "/judge", "/plain"))
    assert engine.active == 0


def test_commits_are_told_as_they_happen(aligner):
    told = []
    record = asyncio.run(aligner.record(prompts("Why?")[0], told.append))
    assert [commit._asdict() for commit in told] == record["moves"]


@pytest.mark.parametrize("faulty", ["on_commit", "left"])
def test_a_consumer_that_gives_up_closes_the_sessions_at_once(faulty, aligner, engine):
    def fail(commit):
        raise KeyError("consumer")

    async def run():
        prepared = aligner.prepare("p", "Why?")
        if faulty == "on_commit":
            with pytest.raises(KeyError, match="consumer"):
                await aligner.generate(prepared, on_commit=fail)
        else:
            async with aclosing(aligner.begin(prepared).pieces()) as pieces:
                await anext(pieces)
        return engine.active

    assert asyncio.run(run()) == 0


def test_limits_leave_room_for_the_evaluation_in_the_context(tmp_path, engine):
    engine.context = 300
    aligner = make_aligner(make_task(tmp_path), engine, max_new_tokens=0)
    prepared = aligner.prepare("p", "Why?")
    around = aligner.evaluator.overhead("Why?") - len(prepared.tokens)
    assert around > 0
    assert prepared.search.maxlen + around < engine.context
    answer = asyncio.run(aligner.generate(prepared))
    assert len(prepared.tokens) + len(answer.tokens) <= prepared.search.maxlen
    for long in ("x" * 250, "x" * 400):
        with pytest.raises(RainError, match="tokens"):
            aligner.prepare("p", long)


def test_every_end_id_of_the_engine_ends_an_answer(tmp_path, engine):
    engine.eos = (256, ord("e"))
    found = records(make_aligner(make_task(tmp_path), engine), prompts(*"abcdef"))
    ended = [record for record in found if record["finish"] == "eos"]
    assert len(ended) >= 3
    assert not [record for record in found if "e" in record["raina"] + record["pa"]]


def test_what_all_prompts_share_is_computed_first(aligner, engine):
    cached = []

    async def cache_prefix(prefix):
        cached.append(engine.tokenizer.decode(prefix))

    engine.cache_prefix = cache_prefix
    asyncio.run(aligner.warm_up())
    assert cached == ["Is it kind?\nHuman: "]


def test_a_search_computes_ahead_as_far_as_its_budget_goes_and_not_if_that_counts_tokens(tmp_path, monkeypatch):
    guessed, compute = [], Search._compute_ahead

    def recorded(self, guess):
        guessed.append(self.inputs.key)
        return compute(self, guess)

    budgets = {"counted": Budget(tokens=10**6), "short": Budget(simulations=2), "free": None}

    async def generate():
        answers = [aligner.generate(aligner.prepare(id, "Why is it so?"), budget=budgets[id]) for id in budgets]
        return [answer.commits for answer in await asyncio.gather(*answers)]

    monkeypatch.setattr(Search, "_compute_ahead", recorded)
    found = []
    for prefetch in (0, 8):
        assert not guessed
        aligner = make_aligner(make_task(tmp_path), WatchedEngine())
        aligner.parts = replace(aligner.parts, prefetch=prefetch)
        found.append(asyncio.run(generate()))
    assert found[0] == found[1]
    assert set(guessed) == {"0/short", "0/free"}
    assert guessed.count("0/short") == 1


def test_searches_that_run_at_the_same_time_share_what_is_computed_ahead(tmp_path, monkeypatch):
    shares, ahead = [], TreeSearch._ahead

    def recorded(self):
        shares.append(ahead(self))
        return shares[-1]

    async def generate(count):
        shares.clear()
        prompts = [aligner.prepare(str(number), "Why is it so?") for number in range(count)]
        await asyncio.gather(*[aligner.generate(prompt) for prompt in prompts])
        return min(shares)

    monkeypatch.setattr(TreeSearch, "_ahead", recorded)
    aligner = make_aligner(make_task(tmp_path), WatchedEngine())
    aligner.parts = replace(aligner.parts, prefetch=40)
    assert [asyncio.run(generate(count)) for count in (1, 2, 3, 60, 1)] == [32, 20, 14, 1, 32]
