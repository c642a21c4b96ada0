"""Verdicts that people gave."""

import asyncio
import json
from pathlib import Path

import pytest
from support.judge_server import record, score, write_run
from support.rows import save_rows

from rain.core.errors import RainError
from rain.judges.base import JudgeConfig, Query
from rain.judges.registry import open_judge
from rain.report.command import build
from rain.report.markdown import markdown

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
        ("[" * 200_000, "line 1: needs the fields"),
        ("3", "line 1: needs the fields"),
        ('{"rater": "one", "id": "a"}', "line 1: needs the fields"),
        ('{"rater": "one"}', "no ratings"),
        ('{"id": "a", "answer": "pa", "ask": "harmless"}', "line 1: needs the fields id, answer, ask, verdict"),
        ('{"id": "a", "answer": "pa", "ask": "harmless", "verdict": "yes"}', "line 1: .*'verdict'"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(file: Path, text: str, named: str) -> None:
    file.write_text(text)
    with pytest.raises(RainError, match=named):
        open_judge(f"ratings:{file}", JudgeConfig())


@pytest.mark.parametrize("order", ["raina,pa", "pa,raina"])
def test_a_pair_that_was_rated_in_one_order_counts_for_both(tmp_path: Path, order: str) -> None:
    verdicts = {"a": "first", "b": "second", "c": "tie", "d": None}
    rows = [{"id": id, "answer": order, "ask": "pairwise", "verdict": verdict} for id, verdict in verdicts.items()]
    judge = open_judge(f"ratings:{save_rows(tmp_path / 'pairs.jsonl', *rows)}", JudgeConfig())

    def decisions(side: str) -> list[object]:
        queries = [Query(id, side, "pairwise", "q", "r", other="s") for id in verdicts]
        return [asyncio.run(judge.decide(query)).decision for query in queries]

    assert decisions(order) == ["first", "second", "tie", None]
    assert decisions(",".join(reversed(order.split(",")))) == ["second", "first", "tie", None]


def test_the_ratings_that_were_asked_for_last_count_though_they_are_stored_already(tmp_path: Path) -> None:
    outdir, files = write_run(tmp_path / "run", "hh", [record(1, "r", "p")]), []
    for folder, verdict in (("one", True), ("two", False)):
        (tmp_path / folder).mkdir()
        rows = [{"id": "r1", "answer": side, "ask": "harmless", "verdict": verdict} for side in ("raina", "pa")]
        files.append(save_rows(tmp_path / folder / "ann.jsonl", *rows))

    def harmless(file: Path) -> list[int]:
        score(outdir, f"ratings:{file}")
        [run] = build([outdir])["runs"]
        return [row["rain"]["yes"] for row in run["scores"] if row["metric"] == "harmless"]

    assert [harmless(files[i]) for i in (0, 1, 0, 0, 1)] == [[1], [0], [1], [1], [0]]
    [path] = outdir.glob("scores_*.jsonl")
    assert len(path.read_text().splitlines()) == 2 + 2 + 1 + 0 + 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RainError, match="missing.jsonl"):
        open_judge(f"ratings:{tmp_path / 'missing.jsonl'}", JudgeConfig())


@pytest.mark.parametrize("first", [[json.dumps({"rater": "one rater (the authors), blind"})], []])
def test_tables_name_the_rater_if_the_file_does(file: Path, first: list[str]) -> None:
    rows = LINES if first else [json.dumps({**json.loads(LINES[0]), "rater": "one rater (the authors), blind"})]
    file.write_text("\n".join([*first, *rows]))
    judge = open_judge(f"ratings:{file}", JudgeConfig())
    assert judge.name == "ratings:ann, one rater (the authors), blind"
    outdir = write_run(file.parent / "out", "hh", [record(1, "R", "P", id="a")])
    score(outdir, f"ratings:{file}")
    text = markdown(build([outdir]))
    [row] = [line for line in text.splitlines() if line.startswith("| harmless")]
    assert "| ratings:ann, one rater (the authors), blind |" in row


def test_several_raters_are_all_named_and_a_name_is_one_short_line(file: Path) -> None:
    rows = [json.dumps({**json.loads(LINES[i]), "rater": name}) for i, name in enumerate(("A\n\x1b[2J", "B" * 1000))]
    file.write_text("\n".join(rows))
    assert open_judge(f"ratings:{file}", JudgeConfig()).name == f"ratings:ann, A\\n\\x1b[2J and {'B' * 80}"


def test_a_mark_in_front_blank_lines_and_odd_separators_are_taken(file: Path) -> None:
    odd = "a\u2028\u0085b"
    line = json.dumps({"id": odd, "answer": "pa", "ask": "harmless", "verdict": True}, ensure_ascii=False)
    file.write_text(f"\ufeff{line}\r\n\n \n", encoding="utf-8")
    query = Query(odd, "pa", "harmless", "q", "r")
    assert asyncio.run(open_judge(f"ratings:{file}", JudgeConfig()).decide(query)).decision is True
