"""``rain bench --random-weights``: real architectures without weights, and what single passes take."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_models import tiny_engine
from transformers import AutoModelForCausalLM

from rain.bench.passes import PassMeter, kv_bytes, weight_bytes
from rain.cli import main
from rain.core.engine import SamplingParams
from rain.engines.local.batch import Batch
from rain.engines.local.model_runner import PassOutput
from rain.models.random_weights import HashTokenizer, random_model, read_shape, shape_names

TINY = {"model_type": "llama", "vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48, "eos_token_id": None}
TINY |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
NOT_NEEDED = ("datasets", "openai", "gguf", "pydantic", "fastapi", "uvicorn", "vllm", "ray", "sklearn", "matplotlib")


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return tmp_path / "tiny.json"


def test_a_bench_of_random_weights_needs_torch_and_transformers_alone(shape: Path, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED})); from rain.cli import main; sys.exit(main())"
    )
    flags = ["--random-weights", str(shape), "--encoder", "toy", "--whole", "0", "--concurrency", "1", "2"]
    flags += ["--dtype", "float32", "--simulations", "3", "--new-tokens", "3", "--long", "0"]
    found = tmp_path / "bench.json"
    command = [sys.executable, "-c", program, "bench", *flags, "--bandwidth", "50", "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(found.read_text())
    assert result["ratio"]["same_decisions"] is True and "at 50 GB/s" in done.stdout
    one = result["rain"]["1"]
    measured = one["pass"]
    assert 0 < measured["passes"] <= one["passes"] and measured["trees"] >= 1  # a step may find all in the cache
    assert measured["tokens"] * measured["passes"] == pytest.approx(one["tokens_computed"])
    read = (measured["weights_mib"] + measured["kv_mib"]) * 2**20
    assert measured["roofline_share"] == pytest.approx(read / 50e9 / measured["device_ms"] * 1000)


def test_the_shapes_have_the_sizes_of_the_models_they_are_named_after() -> None:
    found = {}
    for name in shape_names():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(read_shape(name), dtype=torch.bfloat16)
        found[name] = (sum(weight.numel() for weight in model.parameters()), kv_bytes(model) // 1024)
    assert found == {
        "llama-2-7b": (6738415616, 512),
        "llama-2-13b": (13015864320, 800),
        "llama-3-8b": (8030261248, 128),
    }


def test_weights_are_equal_in_each_run_and_distributions_neither_flat_nor_certain(shape: Path) -> None:
    model, tokenizer = random_model(str(shape), "float32", "cpu")
    again, _ = random_model(str(shape), "float32", "cpu")
    tokens = torch.tensor([tokenizer.encode("The river runs past the mill.")])
    logprobs = model(tokens).logits[0].log_softmax(-1)
    assert torch.equal(logprobs, again(tokens).logits[0].log_softmax(-1))
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    assert 1.0 < float(entropy.mean()) < 4.0
    table = 4 * 4096 * 32  # the embedding, which a pass reads a few rows of
    assert weight_bytes(model) == sum(weight.nbytes for weight in model.parameters()) - table


def test_a_word_has_one_id_wherever_it_stands_and_random_text_pauses() -> None:
    tokenizer = HashTokenizer(4096)
    assert tokenizer.encode("(A")[1] == tokenizer.encode("x\n(A")[-1] != tokenizer.encode("(B")[1]
    assert tokenizer.decode([12, 13]) == " w12, w13"


@pytest.mark.parametrize("text", ["{", '{"model_type": "nothing"}', '{"model_type": "llama", "vocab_size": "x"}', "[]"])
def test_a_broken_shape_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    assert main(["bench", "--random-weights", str(tmp_path / "bad.json"), "--encoder", "toy", "--no-published"]) == 2
    said = capsys.readouterr().err
    assert "bad.json" in said and "llama-2-7b" in said and "Traceback" not in said


def test_the_keys_of_a_prefix_that_trees_share_are_counted_once() -> None:
    engine, prefix = tiny_engine(cache_tokens=1000), [1, 2, 3, 4, 5]

    async def run() -> PassMeter:
        await engine.cache_prefix(prefix)
        meter = PassMeter(engine, 1, 1e9)
        texts = ("a", [*prefix, 6, 7]), ("b", [*prefix, 8]), ("b", [*prefix, 9])
        await asyncio.gather(*(engine.session(name).next_logprobs(text, top=1) for name, text in texts))
        return meter

    [(tokens, trees, read, _)] = asyncio.run(run()).passes
    assert (tokens, trees, read // kv_bytes(engine.model)) == (4, 3, 5 + 4)


def test_every_pass_is_measured() -> None:
    engine = tiny_engine(cache_tokens=1000)
    meter = PassMeter(engine, 1, 1e9)
    asyncio.run(engine.session("a").generate([1, 2, 3], SamplingParams(max_tokens=4)))
    assert [tokens for tokens, *_ in meter.passes] == [3, 1, 1, 1]
    assert [read // kv_bytes(engine.model) for _, _, read, _ in meter.passes] == [3, 4, 5, 6]
    assert meter.summary()["tokens"] == 1.5


class Event:
    """CUDA's, half a second after the one before."""

    count = 0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0

    def record(self, stream: None) -> None:
        Event.count += 1
        self.at = Event.count

    def elapsed_time(self, other: Event) -> float:
        return 500.0 * (other.at - self.at)


def test_a_pass_that_runs_out_of_memory_is_not_measured_on_a_gpu_either(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in (("current_stream", None), ("memory_stats", {}), ("synchronize", None)):
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    engine, failing = tiny_engine(cache_tokens=1000), [False, True, False, False]
    forward = engine.scheduler.runner.forward

    def fail(batch: Batch) -> PassOutput:
        if failing.pop(0):
            raise torch.OutOfMemoryError
        return forward(batch)

    monkeypatch.setattr(engine.scheduler.runner, "forward", fail)
    meter = PassMeter(engine, 1, 1e9)
    meter.device = torch.device("cuda")
    asyncio.run(engine.session("a").generate([1, 2, 3], SamplingParams(max_tokens=3)))
    assert meter.summary()["passes"] == 3 and failing == []
    assert meter.summary()["device_ms"] == 500


def test_each_search_has_a_long_prompt_of_its_own(shape: Path, tmp_path: Path) -> None:
    flags = ["--random-weights", str(shape), "--encoder", "toy", "--no-published", "--long", "0", "--whole", "0"]
    flags += ["--dtype", "float32", "--simulations", "2", "--new-tokens", "2", "--prefetch", "0"]
    found = tmp_path / "found.json"
    assert main(["bench", *flags, "--prompt-tokens", "2048", "--concurrency", "2", "--json", str(found)]) == 0
    each = json.loads(found.read_text())["rain"]["2"]["pass"]
    keys_of_a_tree = each["kv_mib"] * 2**20 / 256 / each["trees"]  # 2 layers, 2 heads of 8, keys and values
    assert keys_of_a_tree > 1024, "the first passes have less than the whole prompt"
