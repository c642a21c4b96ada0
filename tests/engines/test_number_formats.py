"""The local engine in both number formats that ``--dtype auto`` chooses on CPUs, whatever this CPU prefers."""

from __future__ import annotations

import asyncio

import pytest
import torch
import transformers
from support.tiny_models import GROUPED, IDS, SHAPE, plain_logprobs, tiny_model

from rain.core.engine import SamplingParams
from rain.core.errors import RainError
from rain.engines.local.engine import HfEngine
from rain.engines.toy import ToyTokenizer

FORMATS = {"float32": 1e-4, "bfloat16": 0.25}
TEXT = tuple(b"Why is the sky blue? Because")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
def test_the_tree_cache_gives_the_log_probabilities_of_a_plain_pass(name: str, kind: str) -> None:
    model = tiny_model(kind).to(getattr(torch, name))
    expected = plain_logprobs(model, TEXT)[-1]
    engine = HfEngine(model, ToyTokenizer())
    assert engine.dtype == name
    session = engine.session("s")
    asyncio.run(session.next_logprobs(TEXT[:9] + (7, 8)))  # another branch
    known = asyncio.run(session.next_logprobs(TEXT, ids=range(257)))
    difference = torch.tensor([known[token] for token in range(257)], dtype=torch.float64) - expected
    assert float(difference.std()) < FORMATS[name] * max(1.0, float(expected.std()))


@pytest.mark.parametrize("name", FORMATS)
def test_a_seed_draws_the_same_tokens_each_time(name: str) -> None:
    drawn = []
    for _ in range(2):
        session = HfEngine(tiny_model().to(getattr(torch, name)), ToyTokenizer()).session("s")
        found = asyncio.run(session.generate(TEXT, SamplingParams(n=3, max_tokens=12, seed=5)))
        drawn.append([one.tokens for one in found])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", FORMATS)
def test_a_refused_model_is_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    config = transformers.DiffLlamaConfig(**IDS, **SHAPE, **GROUPED)
    model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, name)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.25)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    layers = [type(module) for module in model.modules()]
    with pytest.raises(RainError, match="--engine reference"):
        HfEngine(model, ToyTokenizer())
    assert [type(module) for module in model.modules()] == layers
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
