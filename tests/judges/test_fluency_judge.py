"""Fluency: nats per token, by hand, and in the report."""

import asyncio
import math
from pathlib import Path

import pytest
import torch
from support.judge_server import record, score, stored, write_run
from support.tiny_models import save_tiny_model, tiny_model

from rain.cli import main
from rain.core.errors import RainError
from rain.judges.base import JudgeConfig, Query
from rain.judges.check import criterion_of
from rain.judges.registry import open_judge


def nats(text: str, answer: str) -> float:
    """Compute it without any of RAIN: one byte is one token."""
    with torch.inference_mode():
        rows = tiny_model(context=128, head_dim=32)(torch.tensor([list((text + answer).encode())])).logits[0]
    chosen = [row.softmax(-1)[byte] for row, byte in zip(rows[len(text) - 1 :], answer.encode(), strict=False)]
    return -sum(map(math.log, chosen)) / len(answer)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("fluency")
    name = f"fluency:{save_tiny_model(folder / 'tiny', 128)}"
    records = [record(1, "Oh, no.", "Yes", question="Why?"), record(2, " ", "x" * 200, question="Why?")]
    run = write_run(folder / "run", "hh", records)
    summary = score(run, name)
    assert (summary.asked, summary.failed) == (3, 1), "the long answer does not fit into the context"
    return run, name


def test_the_answer_is_measured_behind_its_question(judged: tuple[Path, str]) -> None:
    found = {(line["id"], line["answer"]): line["verdict"] for line in stored(*judged)}
    assert found == {
        ("r1", "raina"): pytest.approx(nats("Why?\n\n", "Oh, no."), rel=1e-4),
        ("r1", "pa"): pytest.approx(nats("Why?\n\n", "Yes"), rel=1e-4),
        ("r2", "raina"): None,
    }


def test_a_cpu_that_is_fast_in_bfloat16_measures_the_same(
    judged: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rain.models.dtypes.cpu_features", lambda: {"avx512_bf16"})
    judge = open_judge(judged[1], JudgeConfig())
    verdict = asyncio.run(judge.decide(Query("r", "pa", "fluency", "Why?", "Yes")))
    assert verdict.decision == pytest.approx(nats("Why?\n\n", "Yes"), rel=1e-4)


def test_the_report_has_its_mean_for_both_sides(judged: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    run, name = judged
    (run / "ratings.jsonl").write_text('{"id": "r1", "answer": "pa", "ask": "harmless", "verdict": true}\n')
    score(run, f"ratings:{run / 'ratings.jsonl'}")
    assert main(["report", str(run)]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| harmless")]
    rain, plain = nats("Why?\n\n", "Oh, no."), nats("Why?\n\n", "Yes")
    assert line.strip("| ").endswith(f"{rain:.2f} / {plain:.2f}")


def test_it_decides_nothing_that_a_label_says() -> None:
    with pytest.raises(RainError, match="decides nothing"):
        criterion_of(open_judge("fluency:m", JudgeConfig()), "harmless")


def test_a_model_whose_numbers_are_none_measures_nothing(
    judged: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rain.judges.fluency.nats_per_token", lambda *_: math.nan)
    judge = open_judge(judged[1], JudgeConfig())
    with pytest.raises(RainError, match="not a number"):
        asyncio.run(judge.decide(Query("r", "pa", "fluency", "Why?", "Yes")))
