"""How far judges agree with labels of people, by hand arithmetic."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import asked, judge_server
from support.rows import save_rows
from test_similarity import judge as similarity_judge

from rain.core.errors import RainError
from rain.judges.base import JudgeConfig
from rain.judges.check import HEAD, check_cells, check_judge, load_queries
from rain.judges.registry import open_judge
from rain.judges.scoring import Summary


def labelled(folder: Path, *rows: object) -> Path:
    return save_rows(folder / "labelled.jsonl", *rows)


def check(judge: Any, path: Path, wanted: str = "", questions: Path | None = None) -> dict[str, str]:
    summary = Summary(judge.name, path)
    cells = asyncio.run(check_judge(judge, load_queries(path, questions), wanted, summary))
    return dict(zip(HEAD, cells, strict=True))


def test_agreement_kappa_and_counts_by_hand() -> None:
    # agreement 3/5; chance 0.4 * 0.4 + 0.6 * 0.6 = 0.52; kappa (0.6 - 0.52) / 0.48
    pairs = [(True, True), (True, False), (False, True), (False, False), (False, False)]
    assert check_cells(pairs) == ["5", "0.600", "[0.231, 0.882]", "0.167", "1", "1", "1", "2"]
    assert check_cells([(True, True)])[3] == "-"


@pytest.mark.parametrize(
    ("field", "rows", "counts"),
    [
        ("jailbroken", [("Sure!", 1), ("Sure!", 0), ("I cannot", 1), ("I cannot", 0), ("", 0)], ["1", "1", "1", "2"]),
        ("label", [("Sorry", 1), ("Sure", 0)], ["1", "0", "0", "1"]),
    ],
)
def test_jailbroken_responses_are_successful_attacks_and_good_ones_are_not(
    tmp_path: Path, field: str, rows: list[tuple[str, int]], counts: list[str]
) -> None:
    path = labelled(tmp_path, *({"response": text, field: label} for text, label in rows))
    found = check(open_judge("keywords:llm-attacks", JudgeConfig()), path)
    assert (found["criterion"], found["n"]) == ("attack", str(len(rows)))
    assert [found[name] for name in HEAD[-4:]] == counts


def test_a_review_is_judged_with_the_space_that_it_has_in_a_run(tmp_path: Path) -> None:
    path = labelled(tmp_path, *({"question": "It", "response": "is fun", "label": label} for label in (1, 0)))
    with judge_server(lambda request: "positive" if "It is fun" in asked(request) else "negative") as server:
        judge = open_judge("openai:m", JudgeConfig(judge_base_url=server.url))
        assert check(judge, path, "sentiment")["agreement"] == "0.500"
    assert server.requests


@pytest.mark.parametrize("correct", ["t; t2", ""], ids=["correct", "best"])
def test_reference_answers_come_from_a_file_of_questions(tmp_path: Path, correct: str) -> None:
    questions = tmp_path / "q.csv"
    header = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    questions.write_text(header + f"A,C,Why?,t,{correct},f; f2,here\n")
    rows = [("t", 1), ("f", 0), ("f", 1), ("t", 1)]
    path = labelled(tmp_path, *({"question": "Why?", "answer": text, "label": label} for text, label in rows))
    found = check(similarity_judge(), path, questions=questions)
    assert (found["agreement"], found["kappa"]) == ("0.750", "0.500")
    with pytest.raises(RainError, match="--questions"):
        check(similarity_judge(), path)


def test_a_judge_of_several_criteria_needs_to_be_told_which(tmp_path: Path) -> None:
    path = labelled(tmp_path, {"question": "q", "response": "ok", "label": 1}, {"response": "bad", "label": 0})
    with judge_server(lambda request: "harmful" if "bad" in asked(request) else "harmless") as server:
        config = JudgeConfig(judge_base_url=server.url)
        with pytest.raises(RainError, match="--criterion"):
            check(open_judge("openai:m", config), path)
        found = check(open_judge("openai:m", config), path, "harmless")
    assert [found[name] for name in HEAD[-4:]] == ["1", "0", "0", "1"]


def test_texts_that_get_no_verdict_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"question": "q", "response": text, "label": 1} for text in ("ok", "what", "down")]
    replies = {"ok": "harmless", "what": "hm"}
    with judge_server(lambda request: next((r for t, r in replies.items() if t in asked(request)), "?")) as server:
        judge = open_judge("openai:m", JudgeConfig(judge_base_url=server.url, judge_concurrency=1))
        summary = Summary(judge.name, tmp_path)
        cells = asyncio.run(check_judge(judge, load_queries(labelled(tmp_path, *rows), None), "harmless", summary))
    assert cells[HEAD.index("n")] == "1"
    assert summary.nulls["harmless"] == 2


def test_a_faulty_labelled_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(RainError, match="line 2.*'jailbroken'"):
        load_queries(labelled(tmp_path, {"response": "a", "label": 1}, {"response": "a", "jailbroken": "no"}), None)
