"""Labelled texts: what counts as good, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.rows import save_rows

from rain.core.errors import RainError
from rain.data.labelled import Labelled, load_labelled

GOOD, BAD = {"question": "q", "response": "yes", "label": 1}, {"question": "q", "response": "no", "label": 0}


def saved(folder: Path, *rows: object) -> Path:
    return save_rows(folder / "labelled.jsonl", *rows)


def test_a_jailbroken_answer_is_a_bad_one_and_fields_have_two_names(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD, {"goal": "g", "answer": "a", "jailbroken": True}, {**GOOD, "label": False})
    asked = Labelled("g", "a", False, safe=False)  # only an answer to a harmful request can be jailbroken
    assert load_labelled(path) == [Labelled("q", "yes", True), asked, Labelled("q", "yes", False)]


@pytest.mark.parametrize(("told", "known"), [(True, True), (False, False), (None, None)])
def test_a_row_may_tell_whether_the_request_is_safe(tmp_path: Path, told: bool | None, known: bool | None) -> None:
    rows = [{**row, "prompt_is_safe": told} for row in (GOOD, BAD)]
    assert [text.safe for text in load_labelled(saved(tmp_path, *rows))] == [known, known]


def test_a_csv_file_says_it_in_words(tmp_path: Path) -> None:
    path = tmp_path / "labelled.csv"
    path.write_text("question,response,label,prompt_is_safe\nq,yes,1,TRUE\nq,no,false,0\nq,who knows,,\nq,yes,true,\n")
    assert [(text.good, text.safe) for text in load_labelled(path)] == [(True, True), (False, False), (True, None)]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"question": "q", "response": "r"}, "field 'label' is missing"),
        ({**GOOD, "label": "good"}, "field 'label' must be true or false"),
        ({"question": "q", "label": 1}, "field 'response' is missing"),
        ({**GOOD, "prompt_is_safe": "yes"}, "field 'prompt_is_safe' must be true or false"),
    ],
)
def test_a_faulty_row_is_named(tmp_path: Path, row: dict[str, Any], fault: str) -> None:
    with pytest.raises(RainError, match=f"line 2: {fault}"):
        load_labelled(saved(tmp_path, GOOD, row))


def test_a_judge_can_be_checked_with_less_than_a_preflight_needs(tmp_path: Path) -> None:
    path = saved(tmp_path, {"response": "r", "jailbroken": False})
    assert load_labelled(path, complete=False) == [Labelled("", "r", True, safe=False)]
    with pytest.raises(RainError, match="'question'"):
        load_labelled(path)
    with pytest.raises(RainError, match="one label only"):
        load_labelled(saved(tmp_path, GOOD, GOOD))
