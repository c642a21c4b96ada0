"""Whole searches in float32 decide the same whatever the concurrency, the cache, the pass size or the engine."""

from __future__ import annotations

import asyncio

import pytest
import torch
from support.tiny_models import tiny_model
from support.tiny_task import decisions, make_aligner, make_task, prompts, records

from rain.engines.local.engine import HfEngine
from rain.engines.reference import ReferenceEngine
from rain.engines.toy import ToyEngine, ToyTokenizer

QUESTIONS = [
    "Is the sea salty?",
    "Is the sea salt?",
    "How do I fix a bicycle",
    "Why",
    "What is kind? (A) me (B) you",
    "Say: The answer is: (A",
    "Human: Human:",
    "Can a cat and a dog be friends, if both are old and one of them is nearly blind?",
]


def answer(folder, engine, concurrency=1, questions=QUESTIONS, **given):
    torch.set_num_threads(1)
    found = records(make_aligner(make_task(folder), engine, **given), prompts(*questions), concurrency)
    assert not [record["error"] for record in found if "error" in record]
    return [decisions(record) for record in found]


def hf(kind="llama", **options):
    return HfEngine(tiny_model(kind, deviation=0.4), ToyTokenizer(), **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One search after the other, with room for everything."""
    return answer(tmp_path_factory.mktemp("task"), hf())


def test_the_searches_that_are_compared_are_worth_it(alone):
    values = {move["value"] for record in alone for move in record["moves"]}
    assert len(values) > 5
    assert min(values) < 0 < max(values)
    assert min(len(record["moves"]) for record in alone) >= 3
    assert len({record["raina"] for record in alone}) == len(alone)
    assert any(record["raina"] != record["pa"] for record in alone)


def test_eight_searches_at_a_time_decide_as_one_after_the_other(tmp_path, alone):
    assert answer(tmp_path, hf(), concurrency=8) == alone


def test_searches_decide_the_same_in_another_order_and_without_their_neighbours(tmp_path, alone):
    asked = prompts(*QUESTIONS)
    found = records(make_aligner(make_task(tmp_path), hf()), [asked[6], asked[1]], concurrency=2)
    assert [decisions(record) for record in found] == [alone[6], alone[1]]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_eviction_and_small_passes_change_no_decision(concurrency, tmp_path, alone):
    engine = hf(cache_tokens=200, max_batch_tokens=24)
    assert answer(tmp_path, engine, concurrency, QUESTIONS[:4]) == alone[:4]
    assert engine.stats().evictions > 10


def test_the_caching_engine_decides_as_the_reference_engine(tmp_path, alone):
    engine = ReferenceEngine(tiny_model(deviation=0.4), ToyTokenizer())
    assert answer(tmp_path, engine, questions=QUESTIONS[:2]) == alone[:2]


def test_a_model_with_sliding_window_layers_decides_the_same_with_and_without_a_cache(tmp_path):
    plain = ReferenceEngine(tiny_model("gemma3", deviation=0.4), ToyTokenizer())
    expected = answer(tmp_path, plain, questions=QUESTIONS[:2])
    assert answer(tmp_path, hf("gemma3"), concurrency=2, questions=QUESTIONS[:2]) == expected
    assert answer(tmp_path, hf("gemma3", cache_tokens=150), concurrency=2, questions=QUESTIONS[:2]) == expected


def test_lazy_expansion_decides_the_same_as_eager_expansion_and_computes_less(tmp_path):
    task, asked = make_task(tmp_path), prompts(*QUESTIONS[:4])
    eager, lazy = (records(make_aligner(task, hf(), eager=eager), asked, 4) for eager in (True, False))
    assert [{**decisions(record), "requests": 0} for record in eager] == [
        {**decisions(record), "requests": 0} for record in lazy
    ]
    computed = [[record["cost"]["rain"]["tokens_computed"] for record in found] for found in (eager, lazy)]
    assert all(less < more for more, less in zip(*computed, strict=True)), computed


def test_another_seed_or_another_prompt_id_draws_something_else(tmp_path):
    question = QUESTIONS[:1]
    first = answer(tmp_path, ToyEngine(), questions=question)
    assert answer(tmp_path, ToyEngine(), questions=question) == first
    assert answer(tmp_path, ToyEngine(), questions=question, seed=1)[0]["moves"] != first[0]["moves"]
    again = records(make_aligner(make_task(tmp_path), ToyEngine()), prompts("x", *question)[1:])
    assert again[0]["moves"] != first[0]["moves"]


def test_smollm2_decides_the_same_alone_and_beside_others_with_eviction(tmp_path, smollm2):
    model, tokenizer = smollm2
    before = model.config._attn_implementation
    given = {"max_simulations": 4, "extra_simulations": 2, "max_new_tokens": 3, "candidates": 3, "max_draws": 2}

    def run(concurrency, **options):
        aligner = make_aligner(make_task(tmp_path), HfEngine(model, tokenizer, **options), tokenizer, **given)
        return [decisions(record) for record in records(aligner, prompts(*QUESTIONS[:3]), concurrency)]

    try:
        torch.set_num_threads(1)
        alone = run(1)
        assert all(len(record["moves"]) == 2 for record in alone)
        assert run(3, cache_tokens=150, max_batch_tokens=48) == alone
    finally:
        model.set_attn_implementation(before)


def test_a_cancelled_search_leaves_its_neighbours_decisions_as_they_are(tmp_path, alone):
    aligner, asked = make_aligner(make_task(tmp_path), hf()), prompts(*QUESTIONS)

    async def run():
        await aligner.warm_up()
        tasks = []

        def cancel(commit):
            tasks[1].cancel()

        tasks += [asyncio.create_task(aligner.record(asked[i], cancel)) for i in range(3)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, lost, third = asyncio.run(run())
    assert isinstance(lost, asyncio.CancelledError)
    assert [decisions(record) for record in (first, third)] == [alone[0], alone[2]]
