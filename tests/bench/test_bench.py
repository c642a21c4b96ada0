"""``rain bench``: one run compares the same decisions, and its JSON holds what the table says."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny_models import save_tiny_model

from rain.bench.lengths import PUBLISHED_LENGTHS
from rain.bench.machine import machine, peak_memory_mib
from rain.bench.report import ratios
from rain.bench.rows import Bench
from rain.cli import main
from rain.configs import AlignerConfig
from rain.data.datasets import Prompt
from rain.engines.registry import PlacementConfig
from rain.engines.toy import ToyEncoder, ToyEngine
from rain.models.loading import load_model

SHORT = ("--simulations", "4", "--new-tokens", "6", "--whole-tokens", "4", "--long", "0")


def test_all_ways_decide_the_same_and_the_tree_cache_computes_each_token_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, found = str(save_tiny_model(tmp_path / "tiny", 8192)), tmp_path / "bench.json"
    flags = ["--modelname", model, "--dtype", "float32", "--concurrency", "1", "2", "--whole", "1", *SHORT]
    assert main(["bench", *flags, "--long", "6", "--json", str(found)]) == 0
    result = json.loads(found.read_text())
    published, one, two = result["published"], result["rain"]["1"], result["rain"]["2"]
    assert result["ratio"]["same_decisions"] is True
    assert published["answers"] == one["answers"] == two["answers"][:1]
    assert published["simulations"] == one["simulations"] < two["simulations"]
    assert one["tokens_computed"] == one["distinct_tokens"] < published["tokens_computed"] / 10
    assert two["prompts"] == 2 and two["computed_over_distinct"] <= 1.02
    shares = [one[f"{name}_share"] for name in ("model", "search", "idle")]
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert result["ratio"]["speedup_1"] > 1
    assert result["plain"]["uncached_tokens"] == result["plain"]["cached_tokens"] == 4
    long = result["long"]
    assert result["ratio"]["long_same_decisions"] is True
    assert len(long["published"]["visited"]) == long["published"]["simulations"] == 6
    assert long["published"]["visited"] == long["1"]["visited"] == long["2"]["visited"]
    judged = 2 * PUBLISHED_LENGTHS[1]  # each text is judged by two prompts of this length
    assert judged < long["published"]["tokens_per_simulation"] and long["1"]["tokens_per_simulation"] < judged / 10
    assert one["calls_per_simulation"] == one["passes"] / one["simulations"]
    assert published["calls_per_simulation"] > 2 * one["calls_per_simulation"]
    printed = capsys.readouterr()
    assert "baseline implementation" in printed.out and "number format: float32; " in printed.out
    assert "CPU cores, " in result["machine"] and "decisions" not in result
    assert "min left" in printed.err


def test_ratios_by_hand():
    def row(seconds: float, cpu: float, *answers: str) -> dict[str, object]:
        return {"seconds_per_simulation": seconds, "cpu_seconds_per_simulation": cpu, "answers": list(answers)}

    result = {
        "published": row(6.0, 8.0, "a"),
        "rain": {"1": row(0.5, 0.8, "a"), "8": row(0.25, 0.4, "a", "b")},
        "step_by_step": {"1": row(0.75, 1.0, "a")},
        "long": {"published": row(9.0, 9.0, ""), "8": {**row(0.3, 0.6, ""), "visited": ["d"]}},
        "whole": {"seconds": 80.0, "prompts": 8},
        "plain": {"uncached_seconds": 4.0, "cached_seconds": 1.25},
    }
    assert ratios(result) == pytest.approx({
        "speedup_1": 12, "cpu_speedup_1": 10, "speedup_8": 24, "cpu_speedup_8": 20, "same_decisions": True,
        "ahead_speedup_1": 1.5, "ahead_cpu_speedup_1": 1.25, "ahead_same_decisions": True,
        "long_speedup_8": 30, "long_cpu_speedup_8": 15, "long_same_decisions": False,
        "rain_over_plain_uncached": 2.5, "rain_over_plain_cached": 8,
    })  # fmt: skip


def test_more_searches_than_prompts_repeat_the_prompts_with_other_random_numbers() -> None:
    prompts = [Prompt("x-0", "a"), Prompt("x-1", "b")]
    found = Bench(AlignerConfig, PlacementConfig(), prompts, ToyEncoder()).first(5)
    assert [prompt.question for prompt in found] == ["a", "b", "a", "b", "a"]
    assert found[:2] == prompts and len({prompt.id for prompt in found}) == 5


def test_a_model_is_gone_before_the_next_one_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []

    def load(*args: Any, **options: Any) -> tuple[Any, Any]:
        assert [known() for known in alive] == [None] * len(alive)
        model, tokenizer = load_model(*args, **options)
        alive.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr("rain.bench.rows.load_model", load)
    model = str(save_tiny_model(tmp_path / "tiny", 8192))
    flags = ["--modelname", model, "--encoder", "toy", "--no-published", "--concurrency", "1", *SHORT]
    assert main(["bench", *flags]) == 0
    assert len(alive) == 5, "two rows of searches, greedy answers in both ways, whole answers"


def test_a_gpu_is_named_and_its_memory_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 20)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert machine().startswith(f"NVIDIA H100, PyTorch {torch.__version__}, CUDA 12.8; ")
    engine = ToyEngine()
    assert peak_memory_mib(engine) > 30
    engine.model = SimpleNamespace(device=torch.device("cuda", 0))  # type: ignore[attr-defined]
    assert peak_memory_mib(engine) == 3


def test_in_bfloat16_decisions_are_compared_in_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, found = str(save_tiny_model(tmp_path / "tiny", 8192)), tmp_path / "bench.json"
    flags = ["--modelname", model, "--dtype", "bfloat16", "--concurrency", "1", "--whole", "0", *SHORT]
    assert main(["bench", *flags, "--json", str(found)]) == 0
    result = json.loads(found.read_text())
    assert (result["published"]["dtype"], result["rain"]["1"]["dtype"]) == ("bfloat16", "bfloat16")
    assert result["decisions"]["rain"]["1"] == result["decisions"]["published"]
    assert result["ratio"]["same_decisions"] is True
    assert "compared in short searches in float32" in capsys.readouterr().out
