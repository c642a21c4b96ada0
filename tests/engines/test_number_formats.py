"""The local engine in bfloat16, which ``--dtype auto`` chooses on some CPUs, whatever this CPU prefers."""

from __future__ import annotations

import asyncio

import pytest
import torch
from support.tiny_models import plain_logprobs, tiny_model

from rain.core.engine import SamplingParams
from rain.engines.local import precision, self_check
from rain.engines.local.engine import HfEngine
from rain.engines.toy import ToyTokenizer

TEXT = tuple(b"Why is the sky blue? Because")


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
def test_the_tree_cache_gives_the_log_probabilities_of_a_plain_pass(kind: str) -> None:
    model = tiny_model(kind).to(torch.bfloat16)
    expected = plain_logprobs(model, TEXT)[-1]
    engine = HfEngine(model, ToyTokenizer())
    assert engine.dtype == "bfloat16"
    session = engine.session("s")
    asyncio.run(session.next_logprobs(TEXT[:9] + (7, 8)))  # another branch
    known = asyncio.run(session.next_logprobs(TEXT, ids=range(257)))
    difference = torch.tensor([known[token] for token in range(257)], dtype=torch.float64) - expected
    assert float(difference.std()) < 0.25 * max(1.0, float(expected.std()))


def test_a_seed_draws_the_same_tokens_each_time() -> None:
    drawn = []
    for _ in range(2):
        session = HfEngine(tiny_model().to(torch.bfloat16), ToyTokenizer()).session("s")
        found = asyncio.run(session.generate(TEXT, SamplingParams(n=3, max_tokens=12, seed=5)))
        drawn.append([one.tokens for one in found])
    assert drawn[0] == drawn[1]


@pytest.fixture
def float32_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this CPU offers what GPUs do: products of bfloat16 with results in float32."""

    def pretend(name: str) -> None:
        product = getattr(torch, name)

        def multiply(left: torch.Tensor, right: torch.Tensor, out_dtype: torch.dtype | None = None) -> torch.Tensor:
            return product(left.to(out_dtype or left.dtype), right.to(out_dtype or right.dtype))

        monkeypatch.setattr(torch, name, multiply)

    pretend("mm")
    pretend("bmm")
    monkeypatch.setattr(precision, "has_float32_sums", lambda device, dtype: dtype is torch.bfloat16)
    monkeypatch.setattr(self_check, "pack_linears", lambda model: 0)


def test_a_cpu_rounds_sums_to_its_format() -> None:
    assert not any(precision.has_float32_sums(torch.device("cpu"), kind) for kind in (torch.float32, torch.bfloat16))


@pytest.mark.usefixtures("float32_sums")
@pytest.mark.parametrize("bias", [False, True])
def test_a_float32_head_does_not_round(bias: bool) -> None:
    linear = torch.nn.Linear(64, 50, bias=bias, dtype=torch.bfloat16)
    inputs = torch.randn(1, 7, 64, dtype=torch.bfloat16) * 50
    exact = torch.nn.functional.linear(
        inputs.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double()
    )
    own, wide = linear(inputs), precision.Float32Head(linear)(inputs)
    assert wide.dtype is torch.float32
    assert wide.shape == own.shape
    assert (wide - exact).abs().max() < 1e-3 < 1e-2 < (own - exact).abs().max()


@pytest.mark.usefixtures("float32_sums")
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_labels_are_read_from_logits_in_float32_where_the_device_offers_them(kind: str) -> None:
    model = tiny_model(kind).to(torch.bfloat16)
    head = model.get_output_embeddings()
    engine = HfEngine(model, ToyTokenizer())
    known = asyncio.run(engine.session("s").next_logprobs(TEXT, ids=range(257)))
    odds = torch.tensor([known[token] - known[0] for token in range(257)])
    assert len(odds.unique()) > 250  # rounded to bfloat16, many of them are the same
    asyncio.run(engine.close())
    assert model.get_output_embeddings() is head
