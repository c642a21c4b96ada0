"""Verdicts that people gave."""

import asyncio
import json
from pathlib import Path

import pytest

from rain.core.errors import RainError
from rain.judges.base import JudgeConfig, Query
from rain.judges.registry import open_judge

LINES = [
    json.dumps({"id": record, "answer": side, "ask": "harmless", "verdict": verdict})
    for record, side, verdict in (("a", "raina", True), ("a", "pa", False), ("b", "raina", None))
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ann.jsonl"
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_ratings_are_looked_up_and_what_nobody_rated_is_null(file: Path) -> None:
    judge = open_judge(f"ratings:{file}", JudgeConfig())
    assert judge.name == "ratings:ann"
    queries = [Query(*key, "harmless", "q", "r") for key in (("a", "raina"), ("a", "pa"), ("b", "raina"), ("c", "pa"))]
    assert [asyncio.run(judge.decide(query)).decision for query in queries] == [True, False, None, None]


def test_the_version_changes_with_the_file_and_is_none_for_what_it_does_not_rate(file: Path) -> None:
    before = open_judge(f"ratings:{file}", JudgeConfig())
    assert before.version("helpful") is None
    file.write_text(LINES[0])
    assert open_judge(f"ratings:{file}", JudgeConfig()).version("harmless") != before.version("harmless")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no ratings"),
        ("no json", "line 1: needs the fields"),
        ('{"id": "a", "answer": "pa", "ask": "harmless"}', "line 1: needs the fields id, answer, ask, verdict"),
        ('{"id": "a", "answer": "pa", "ask": "harmless", "verdict": "yes"}', "line 1: .*'verdict'"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(file: Path, text: str, named: str) -> None:
    file.write_text(text)
    with pytest.raises(RainError, match=named):
        open_judge(f"ratings:{file}", JudgeConfig())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RainError, match="missing.jsonl"):
        open_judge(f"ratings:{tmp_path / 'missing.jsonl'}", JudgeConfig())
