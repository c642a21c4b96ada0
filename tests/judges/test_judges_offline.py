"""Judges without a model of their own: ratings by people, and similarity to reference answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from rain.core.errors import RainError
from rain.judges.base import JudgeSettings, Query, open_judge
from rain.judges.ratings import RatingsJudge
from rain.judges.similarity import SimilarityJudge, check_similarity


class Directions:
    """Embeds a text along the axis of its first letter, t or f; other texts lie between."""

    def embed(self, texts):
        axes = {"t": (1.0, 0.0), "f": (0.0, 1.0)}
        return [np.array(axes.get(text[:1], (0.8, 0.6))) for text in texts]


def decide(judge, response, right=("t1",), wrong=("f1",)):
    query = Query("id", "raina", "true", "why?", response, right=right, wrong=wrong)
    return asyncio.run(judge.decide(query)).decision


def test_an_answer_is_true_if_it_is_closest_to_a_true_reference():
    judge = SimilarityJudge("none", Directions())
    assert decide(judge, "t") is True and decide(judge, "f") is False and decide(judge, "x") is True
    assert decide(judge, "x", right=("f",), wrong=("t",)) is False
    assert decide(judge, " ") is None and decide(judge, "t", wrong=()) is None
    assert judge.version("info") is None and judge.version("true") == "references-1"


def test_the_check_counts_agreement_with_labels(tmp_path: Path):
    questions, labelled = tmp_path / "q.csv", tmp_path / "l.jsonl"
    header = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    questions.write_text(header + "A,C,Why?,t,t; t2,f; f2,here\n")
    rows = [("t", 1), ("f", 0), ("f", 1), ("t", 1)]
    labelled.write_text("".join(json.dumps({"question": "Why?", "answer": a, "label": b}) + "\n" for a, b in rows))
    said = asyncio.run(check_similarity(SimilarityJudge("none", Directions()), labelled, questions))
    assert said.startswith("similarity:none: 4 answers, agreement 75.0%") and said.endswith("kappa 0.50")


def test_ratings_are_looked_up_and_what_nobody_rated_is_null(tmp_path: Path):
    file = tmp_path / "ann.jsonl"
    rows = [("a", "raina", True), ("a", "pa", False), ("b", "raina", None)]
    lines = [json.dumps({"id": i, "answer": side, "ask": "harmless", "verdict": said}) for i, side, said in rows]
    file.write_text("\n".join(lines) + "\n")
    judge = open_judge(f"ratings:{file}", JudgeSettings())
    assert judge.name == "ratings:ann" and judge.version("helpful") is None
    asked = [("a", "raina"), ("a", "pa"), ("b", "raina"), ("c", "pa")]
    verdicts = [asyncio.run(judge.decide(Query(i, side, "harmless", "q", "r"))).decision for i, side in asked]
    assert verdicts == [True, False, None, None]
    before = judge.version("harmless")
    file.write_text(lines[0] + "\n")
    assert RatingsJudge(file).version("harmless") != before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no ratings"),
        ("no json", "line 1: needs the fields"),
        ('{"id": "a", "answer": "pa", "ask": "harmless"}', "line 1: needs the fields id, answer, ask, verdict"),
        ('{"id": "a", "answer": "pa", "ask": "harmless", "verdict": "yes"}', "line 1: the field 'verdict' must be"),
    ],
)
def test_a_faulty_file_of_ratings_is_named_with_its_line(tmp_path: Path, text: str, named: str):
    file = tmp_path / "r.jsonl"
    file.write_text(text)
    with pytest.raises(RainError, match=named):
        RatingsJudge(file)
    with pytest.raises(RainError, match="cannot read the ratings"):
        RatingsJudge(tmp_path / "missing.jsonl")
