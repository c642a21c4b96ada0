"""Local engines: numbers that are none are refused, and what is wrong with one request costs no other."""

from __future__ import annotations

import asyncio

import pytest
import torch
from support.tiny_models import failing_passes, tiny_engine, tiny_model

from rain.core.engine import SamplingParams
from rain.core.errors import RainError, UnclearFault, WorkerFault
from rain.core.stop import Stop
from rain.engines.local.engine import HfEngine
from rain.engines.local.self_check import check_tokens
from rain.engines.reference import ReferenceEngine
from rain.engines.toy import ToyTokenizer

ENGINES = {"hf": HfEngine, "reference": ReferenceEngine}
TEXT = tuple(b"Human: Is the sea salty?\n\nAssistant: Yes. ")
BAD = 200  # an id that the check at start-up does not use


@pytest.fixture(params=ENGINES)
def open_engine(request):
    return lambda model: ENGINES[request.param](model, ToyTokenizer())


def poisoned(value, token=BAD):
    """Return a model with one wrong weight, in the embedding of one id."""
    model = tiny_model()
    assert BAD not in check_tokens(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[token, 0] = value
    return model


def overflowing():
    """Return a model whose numbers are too large for float16."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight *= 3e4
    assert model.half().lm_head.weight.isfinite().all()
    return model


@pytest.mark.parametrize(
    "make",
    [lambda: poisoned(float("nan"), check_tokens(tiny_model())[0]), overflowing],
    ids=["one NaN weight", "float16 overflow"],
)
def test_a_model_whose_numbers_are_none_is_refused_at_start_up(make, open_engine):
    model = make()
    with pytest.raises(RainError, match="--dtype"):
        open_engine(model)
    assert not model.config._attn_implementation.startswith("rain"), "the model is as it was"


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access was encountered", "CUDA out of memory."])
def test_a_device_that_fails_at_the_check_is_no_fault_of_the_model(said, monkeypatch):
    def fail(*_):
        raise RuntimeError(said)

    monkeypatch.setattr("rain.engines.local.model_runner.ModelRunner.forward", fail)
    model = tiny_model()
    with pytest.raises(WorkerFault, match=said):
        HfEngine(model, ToyTokenizer())
    if "error" not in said:
        assert not model.config._attn_implementation.startswith("rain"), "the model is as it was"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("params", [{"top_k": 5}, {}, {"greedy_first": True}])
async def test_a_pass_whose_numbers_are_none_is_an_error_of_the_requests_that_need_them(value, params, open_engine):
    engine, text = open_engine(poisoned(value)), (*TEXT, BAD)
    sick, sound = engine.session("sick"), engine.session("sound")
    requests = [
        sick.generate(text, SamplingParams(max_tokens=3, **params)),
        sick.next_logprobs(text, top=3),
        sick.next_logprobs(text, ids=(1,)),
        sound.generate(TEXT, SamplingParams(max_tokens=3, **params)),
        sound.next_logprobs(TEXT, top=3),
    ]
    *errors, drawn, known = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(error, RainError) and "--dtype" in str(error) for error in errors)
    assert len(drawn[0].tokens) == 3 and len(known) == 3


async def test_what_a_spoilt_pass_overwrote_is_forgotten_if_memory_runs_out_before_its_repetition(monkeypatch):
    engine = HfEngine(poisoned(float("nan")), ToyTokenizer())
    scheduler, sick, sound = engine.scheduler, engine.session("sick"), engine.session("sound")
    await sound.generate(TEXT, SamplingParams(max_tokens=1))  # the next draw computes the last token once more
    [tree], make_room, intact = scheduler.trees, scheduler._make_room, []

    def look(active, budget):
        intact.append(all(layer[list(tree.nodes)].isfinite().all() for layer in scheduler.runner.pool.layers))
        make_room(active, budget)

    monkeypatch.setattr(scheduler, "_make_room", look)
    asked = sick.next_logprobs((*TEXT, BAD), top=1), sound.generate(TEXT, SamplingParams(max_tokens=3))
    with failing_passes(engine.model, lambda number: number == 1) as passes:
        error, drawn = await asyncio.gather(*asked, return_exceptions=True)
    assert passes[:2] == [False, True]
    assert all(intact)
    assert isinstance(error, RainError) and len(drawn[0].tokens) == 3


async def test_an_id_that_the_model_lacks_is_an_error_of_its_request(open_engine):
    session = open_engine(tiny_model()).session("s")
    wrong = [session.next_logprobs((*TEXT, token), top=1) for token in (257, -1, 10**12)]
    wrong += [session.next_logprobs(TEXT, ids=(257,)), session.generate((300,), SamplingParams(max_tokens=1))]
    *wrong, right = await asyncio.gather(*wrong, session.next_logprobs(TEXT, top=2), return_exceptions=True)
    assert all(isinstance(error, RainError) for error in wrong) and len(right) == 2


class TouchyTokenizer(ToyTokenizer):
    """Cannot decode after a while."""

    calls = 0

    def decode(self, tokens, **options):
        self.calls += 1
        if self.calls > 5:
            raise ValueError("this text cannot be decoded")
        return super().decode(tokens, **options)


@pytest.mark.parametrize("params", [{"top_k": 5}, {}])
async def test_a_tokenizer_that_fails_on_one_text_fails_that_request_alone(params):
    engine = HfEngine(tiny_model(), TouchyTokenizer())
    sick, sound = engine.session("sick"), engine.session("sound")
    failing = sick.generate(TEXT, SamplingParams(max_tokens=12, stop=Stop(strings=("no such text",)), **params))
    drawing = sound.generate(TEXT, SamplingParams(n=3, max_tokens=20, **params))
    failed, drawn = await asyncio.gather(failing, drawing, return_exceptions=True)
    later = await sick.generate(TEXT, SamplingParams(max_tokens=4, **params))
    assert isinstance(failed, ValueError)
    assert [len(answer.tokens) for answer in drawn] == [20] * 3 and len(later[0].tokens) == 4
    assert engine.scheduler.requests == []


async def test_a_prompt_too_long_for_the_memory_fails_alone():
    engine = tiny_engine(max_batch_tokens=16)
    small = [engine.session(str(i)).generate((*TEXT, i), SamplingParams(max_tokens=9, seed=i)) for i in range(4)]
    asked = [*small[:2], engine.session("long").next_logprobs(TEXT * 5, top=1), *small[2:]]
    with failing_passes(engine.model, lambda i: sum(map(len, engine.scheduler.trees)) > 150):
        first, second, long, *others = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(long, UnclearFault) and "out of memory" in str(long)
    assert [len(found[0].tokens) for found in (first, second, *others)] == [9] * 4


async def test_a_prefix_that_is_cached_for_several_is_not_lost_when_one_of_them_is_cancelled():
    engine = tiny_engine()
    first, second = (asyncio.create_task(engine.cache_prefix(TEXT)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled() and engine.cached_prefix((*TEXT, 1)) is not None


async def test_a_prefix_that_could_not_be_cached_is_computed_anew():
    engine = tiny_engine()
    with failing_passes(engine.model, lambda i: True), pytest.raises(UnclearFault, match="out of memory"):
        await engine.cache_prefix(TEXT)
    await engine.cache_prefix(TEXT)
    assert engine.cached_prefix((*TEXT, 1)) is not None


LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 512}
LENGTH_DEPENDENT = {"dynamic": ("llama", {"factor": 2.0}), "longrope": ("phi3", LONG)}


@pytest.mark.parametrize("rope", LENGTH_DEPENDENT)
def test_rotary_positions_that_change_with_the_length_are_refused_on_the_tree_cache(rope):
    kind, parameters = LENGTH_DEPENDENT[rope]
    model = tiny_model(kind, rope_parameters={"rope_type": rope, "rope_theta": 1e4, **parameters})
    with pytest.raises(RainError, match=f"{rope} .*--engine reference"):
        HfEngine(model, ToyTokenizer())


def test_a_model_on_several_gpus_is_refused_on_the_tree_cache_and_one_that_is_offloaded_in_part_is_not():
    model = tiny_model()
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu", "lm_head": 0}
    HfEngine(model, ToyTokenizer())
    model = tiny_model()
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    with pytest.raises(RainError, match="on 2 GPUs.*--engine vllm"):
        HfEngine(model, ToyTokenizer())
