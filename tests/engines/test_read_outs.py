"""Read-outs: a number for each token beside keys and values, the same on every engine that has them."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from support.completions_server import engine_on, serving
from support.tiny_models import plain_attention, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from rain.core.engine import ReadOut, SamplingParams
from rain.core.errors import RainError
from rain.engines.local.engine import HfEngine
from rain.engines.reference import ReferenceEngine
from rain.engines.toy import ToyEngine, ToyTokenizer

TEXT = tuple(b"Human: Is the sea salty?\n\nAssistant: Yes, it is. ")
LIMITS = {
    "plenty": {},
    "eviction": {"cache_tokens": 60},
    "small passes": {"max_batch_tokens": 3},
    "both": {"cache_tokens": 1, "max_batch_tokens": 7},
}


def read_outs(layers=(1, 2, 1), size=32):
    rng = np.random.default_rng(3)
    return [ReadOut(layer, rng.normal(size=size) / size) for layer in layers]


def model_of(kind="llama"):
    return tiny_model(kind, num_hidden_layers=3, **({"layer_types": GEMMA} if kind == "gemma3" else {}))


GEMMA = ["sliding_attention", "full_attention", "sliding_attention"]


def opened(kind="llama", **limits):
    engine = HfEngine(model_of(kind), ToyTokenizer(), **limits)
    engine.set_read_outs(read_outs())
    return engine


def plainly(model, prefix, start):
    """Return the same means by one plain pass."""
    with plain_attention(model), torch.inference_mode():
        states = model(torch.tensor([prefix]), output_hidden_states=True, use_cache=False).hidden_states
    return [float(states[layer][0, start:].double().mean(0).numpy() @ w) for layer, w in read_outs()]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen2"])
async def test_read_outs_of_searches_at_once_equal_a_plain_pass_and_the_reference(kind, limits):
    engine, reference = opened(kind, **LIMITS[limits]), ReferenceEngine(model_of(kind), ToyTokenizer())
    reference.set_read_outs(read_outs())
    plain = model_of(kind)

    async def one(number):
        session, prompt, found = engine.session(str(number)), (*TEXT, 65 + number % 2), []
        for turn in range(3):
            drawn = await session.generate(prompt, SamplingParams(n=3, max_tokens=4, top_k=6, seed=number + turn))
            texts = [prompt + continuation.tokens for continuation in drawn]
            starts = [len(TEXT) + 1, 5, len(prompt)]
            means = await asyncio.gather(*map(session.read_out, texts, starts))
            found += zip(texts, starts, means, strict=True)
            prompt = texts[turn]
            session.commit(prompt)
        await session.close()
        return found

    await engine.cache_prefix(TEXT[:20])
    found = [item for found in await asyncio.gather(*map(one, range(3))) for item in found]
    assert len(found) == 27 and bool(engine.stats().evictions) == ("cache_tokens" in LIMITS[limits])
    for text, start, mean in found:
        assert mean == pytest.approx(plainly(plain, text, start), abs=1e-5)
    text, start, mean = found[-1]
    assert mean == pytest.approx(await reference.session("s").read_out(text, start), abs=1e-5)


async def test_a_text_whose_path_is_cached_costs_at_most_its_last_token():
    session, costs = opened(cache_tokens=10_000).session("s"), []
    for answer in await session.generate(TEXT, SamplingParams(n=6, max_tokens=5, top_k=9, seed=1)):
        before = session.usage.tokens_computed
        for _ in range(2):
            await session.read_out(TEXT + answer.tokens, len(TEXT))
        costs.append(session.usage.tokens_computed - before)
    assert max(costs) == 1 and sum(costs) <= 6


async def test_tokens_inside_a_cached_prefix_are_read_too():
    engine, plain, text = opened(), model_of(), (*TEXT, 70, 71, 72)
    await engine.cache_prefix(TEXT)
    for start in (0, 7, len(TEXT) - 1, len(TEXT), len(TEXT) + 2):
        mean = await engine.session("s").read_out(text, start)
        assert mean == pytest.approx(plainly(plain, text, start), abs=1e-5)


async def test_tokens_that_were_computed_before_there_were_read_outs_are_refused():
    engine = HfEngine(model_of(), ToyTokenizer())
    await engine.cache_prefix(TEXT)
    engine.set_read_outs(read_outs())
    session = engine.session("s")
    with pytest.raises(RainError, match="set_read_outs"):
        await session.read_out((*TEXT, 70), 3)
    assert len(await session.read_out((*TEXT, 70), len(TEXT))) == 3


@pytest.mark.parametrize("kind", [HfEngine, ReferenceEngine])
def test_a_read_out_of_nothing_or_of_a_layer_that_is_not_there_is_refused(kind):
    engine = kind(model_of(), ToyTokenizer())
    with pytest.raises(RainError, match="set_read_outs"):
        asyncio.run(engine.session("s").read_out(TEXT, 1))
    for wrong in (read_outs((0,)), read_outs((3,)), read_outs((-1,)), read_outs(size=31)):
        with pytest.raises(RainError, match="layers 1 to 2 have size 32"):
            engine.set_read_outs(wrong)
    engine.set_read_outs(read_outs())
    for start in (len(TEXT), -1):
        with pytest.raises(RainError, match="longer prefix"):
            asyncio.run(engine.session("s").read_out(TEXT, start))


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


def test_a_closed_engine_leaves_no_hooks_in_the_model():
    engine = opened()
    model = engine.model
    engine.set_read_outs(read_outs((1,)))
    assert len(hooks(model)) == 1, "those of before are gone"
    asyncio.run(engine.close())
    assert hooks(model) == []


def test_engines_without_hidden_states_refuse_in_one_sentence():
    with serving() as server:
        for engine in (ToyEngine(), engine_on(server)):
            with pytest.raises(RainError, match="^this engine cannot read hidden states; use --engine hf$"):
                engine.set_read_outs(read_outs())
            with pytest.raises(RainError, match="hidden states"):
                asyncio.run(engine.session("s").read_out(TEXT, 1))


class Watch(TorchDispatchMode):
    """Counts what would have a GPU's host wait: the value of a tensor that is asked for."""

    waits = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.waits += operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return operation(*arguments, **(options or {}))


async def test_a_pass_with_read_outs_waits_for_its_device_once(monkeypatch):
    engine, watch, downloads, waiting_uploads = opened(), Watch(), [], []
    runner, cpu, to = engine.scheduler.runner, torch.Tensor.cpu, torch.Tensor.to
    forward = runner.forward

    def spied(tensor, *given, **named):
        caller = sys._getframe(1).f_globals["__name__"]
        if caller.startswith("rain.") and isinstance(given[0], torch.device) and not named.get("non_blocking"):
            waiting_uploads.append(caller)
        return to(tensor, *given, **named)

    def watched(batch):
        with watch:
            return forward(batch)

    monkeypatch.setattr(runner, "forward", watched)
    monkeypatch.setattr(torch.Tensor, "to", spied)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: downloads.append(1) or cpu(tensor))
    session = engine.session("s")
    await session.generate(TEXT, SamplingParams(n=2, max_tokens=4, top_k=5, seed=1))
    await session.read_out(TEXT, 7)
    await session.generate(TEXT, SamplingParams(max_tokens=3, temperature=2.0, seed=1))
    await session.next_logprobs(TEXT, ids=(3,))
    assert waiting_uploads == []
    assert watch.waits == 0
    with watch:
        assert torch.ones(1)
    assert watch.waits == 1, "it would have been noticed"
    assert len(downloads) == engine.stats().passes > 3


async def test_an_engine_that_nobody_holds_gives_its_memory_back_at_once():
    """Without the garbage collector: what a forgotten cache may still take is not there for the next one."""
    engine = opened()
    session = engine.session("s")
    await session.read_out(TEXT, 0)
    await session.close()
    runner = weakref.ref(engine.scheduler.runner)
    gc.disable()
    try:
        del engine, session
        assert runner() is None
    finally:
        gc.enable()
