"""The engines without a cache keep the contract; what one model's files say about its ends, every engine knows."""

from __future__ import annotations

import asyncio

import pytest
from engines.contract import CONTEXT, EngineContract, Subject
from support.completions_server import serving
from support.tiny_models import save_tiny_model, tiny_model

from rain.core.engine import SamplingParams
from rain.core.errors import RainError
from rain.core.stop import Stop
from rain.engines.reference import ReferenceEngine
from rain.engines.registry import ModelConfig, PlacementConfig, open_engine
from rain.engines.toy import EOS, ToyEngine, ToyTokenizer

SECOND_END = ord("e")


class TestToyEngine(EngineContract):
    @pytest.fixture
    def subject(self):
        engine = ToyEngine()
        return Subject(engine, engine.tokenizer, context=engine.context)


class TestReferenceEngine(EngineContract):
    @pytest.fixture(params=[False, True], ids=["plain", "published"])
    def subject(self, request):
        engine = ReferenceEngine(tiny_model(context=CONTEXT), ToyTokenizer(), published=request.param)
        return Subject(engine, ToyTokenizer())


async def test_the_reference_engine_lets_others_run_between_tokens():
    session = ReferenceEngine(tiny_model(context=CONTEXT), ToyTokenizer()).session("s")
    generation, turns = asyncio.create_task(session.generate((1, 2), SamplingParams(max_tokens=10, seed=1))), 0
    while not generation.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10


def test_the_published_way_keeps_last_logits_and_computes_the_whole_text_again_where_it_lacks_them():
    session = ReferenceEngine(tiny_model(), ToyTokenizer(), published=True).session("s")

    def greedy(count):
        [answer] = asyncio.run(session.generate(b"abcde", SamplingParams(max_tokens=count, greedy_first=True)))
        return answer.tokens, session.usage.forward_passes, session.usage.tokens_computed

    first, again, longer = greedy(4), greedy(4), greedy(6)
    assert first[1:] == again[1:] == (4, 5 + 3)
    assert longer[1:] == (4 + 2, 5 + 3 + 9 + 1)  # four texts are known; the fifth has 9 tokens
    assert first[0] == again[0] == longer[0][:4]
    plain = ReferenceEngine(tiny_model(), ToyTokenizer()).session("s")
    params = SamplingParams(max_tokens=6, n=5, temperature=2.0, top_k=3)
    for one, other in zip(*(asyncio.run(each.generate(b"abcde", params)) for each in (plain, session)), strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("name", ["hf", "reference", "http"])
def test_a_model_with_two_end_ids_ends_at_either_on_every_engine(name, tmp_path):
    save_tiny_model(tmp_path, CONTEXT, eos=[EOS, SECOND_END])
    with serving() as server:
        model = ModelConfig(engine=name, modelname=str(tmp_path), dtype="float32")
        engine, tokenizer = open_engine(model, PlacementConfig(base_url=server.url if name == "http" else ""))
        params = SamplingParams(max_tokens=200, temperature=2.0, stop=Stop(frozenset(engine.eos)))
        prefix = tuple(tokenizer.encode("Human: Is the sea salt"))
        [answer] = asyncio.run(engine.session("s").generate(prefix, params))
    assert engine.eos == (EOS, SECOND_END)
    assert answer.finish == "stop"
    assert answer.tokens[-1] in (EOS, SECOND_END)


@pytest.mark.parametrize(
    ("model", "placement", "flag"),
    [
        ({"engine": "http"}, {}, "--base-url"),
        ({"engine": "hf"}, {"base_url": "http://x"}, "--base-url"),
        ({"engine": "vllm", "quantization": "4bit"}, {}, "--quantization"),
        ({"engine": "vllm"}, {"device_map": "auto"}, "--device-map"),
        ({"engine": "gpt"}, {}, "--engine"),
        ({"dtype": "int8"}, {}, "--dtype"),
        ({}, {"max_batch_tokens": 0}, "--max-batch-tokens"),
    ],
)
def test_a_setting_that_means_nothing_to_the_engine_is_refused_by_its_flag(model, placement, flag):
    with pytest.raises(RainError, match=flag):
        open_engine(ModelConfig(**model), PlacementConfig(**placement))


def test_requests_for_no_continuations_or_no_tokens_are_errors():
    for nothing in ({"n": 0, "max_tokens": 1}, {"n": 1, "max_tokens": 0}):
        with pytest.raises(RainError, match="at least 1"):
            SamplingParams(**nothing)
