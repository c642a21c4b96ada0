"""Labelling texts key by key, and the texts of the model itself that are labelled so."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from support.rows import save_rows

from rain.cli import main
from rain.data.labelled import load_labelled
from rain.evaluators.own import OwnTexts

ROWS = [{"question": f"q{i}", "response": f"r{i}"} for i in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_rows(tmp_path / "own.jsonl", *ROWS)


def press(keys: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Label with these keys; return the labels, "-" where there is none."""
    monkeypatch.setattr("sys.stdin", io.StringIO(keys))
    assert main(["label", str(path)]) == 0
    return [json.loads(line).get("label", "-") for line in path.read_text().splitlines()]


def test_keys_become_labels_and_the_same_command_continues(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert press("g\nx b\nqg", path, monkeypatch) == [1, 0, "-", "-"]
    assert press("sg", path, monkeypatch) == [1, 0, None, 1]
    assert [(item.response, item.good) for item in load_labelled(path)] == [("r0", True), ("r1", False), ("r3", True)]


def test_a_wrong_key_is_told_and_the_end_counts_each_sort(path, monkeypatch, capsys):
    press("xgs", path, monkeypatch)
    shown = capsys.readouterr().out
    assert "'x' is none of them: g good" in shown
    assert "1 text labelled, 1 skipped, 2 without a label; the same command continues" in shown
    press("gb", path, monkeypatch)
    assert "3 texts labelled, 1 skipped, 0 without a label; rain preflight and" in capsys.readouterr().out


def test_undo_takes_back_the_last_labels_also_those_of_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert press("gg", path, monkeypatch) == [1, 1, "-", "-"]
    assert press("uuub", path, monkeypatch) == [0, "-", "-", "-"]


def test_a_text_cannot_steer_the_terminal(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_rows(path, {"question": "q", "response": "\x1b[2J gone"})
    press("q", path, monkeypatch)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[2J gone" in shown


def test_a_row_without_a_text_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_rows(path, ROWS[0], {"question": "q"})
    assert main(["label", str(path)]) == 2
    assert "line 2: field 'response' is missing" in capsys.readouterr().err


def own(folder: Path, name: str, *flags: str) -> list[dict[str, str]]:
    """Draw 12 texts of the toy model to three prompts."""
    prompts, out = save_rows(folder / "prompts.jsonl", *({"question": f"q{i}"} for i in range(3))), folder / name
    command = ["draw", str(out), "--engine", "toy", "--count", "12", "--prompts", str(prompts), *flags]
    assert main(command) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_own_texts_are_different_beginnings_of_answers_in_random_order(tmp_path: Path) -> None:
    rows = own(tmp_path, "a.jsonl")
    assert len({(row["question"], row["response"]) for row in rows}) == 12
    questions = [row["question"] for row in rows]
    assert all(2 <= questions.count(f"q{i}") <= 6 for i in range(3))
    assert questions != sorted(questions)
    assert all(set(row) == {"id", "question", "response"} for row in rows)
    lengths = [len(row["response"]) for row in rows]  # a token of the toy model is a byte
    assert max(lengths) <= 48
    assert max(lengths) - min(lengths) > 10


def test_own_texts_depend_on_the_seed_alone(tmp_path: Path) -> None:
    first = own(tmp_path, "a.jsonl")
    assert own(tmp_path, "b.jsonl") == first
    assert own(tmp_path, "c.jsonl", "--seed", "1") != first


@pytest.mark.parametrize(
    ("prompts", "out", "named"), [("hh", "new.jsonl", "hh"), ("own.jsonl", "own.jsonl", "there already")]
)
def test_own_texts_need_a_file_of_prompts_and_overwrite_no_labels(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prompts: str, out: str, named: str
) -> None:
    monkeypatch.chdir(path.parent)
    assert main(["draw", out, "--engine", "toy", "--count", "2", "--prompts", prompts]) == 2
    assert named in capsys.readouterr().err


def test_what_is_drawn_before_an_interruption_is_kept(tmp_path, monkeypatch):
    drawn = OwnTexts._text

    async def interrupted(self, question, number):
        if number == 7:
            raise KeyboardInterrupt
        return await drawn(self, question, number)

    monkeypatch.setattr(OwnTexts, "_text", interrupted)
    monkeypatch.setattr("rain.evaluators.own.CONCURRENCY", 1)
    out, prompts = tmp_path / "new.jsonl", save_rows(tmp_path / "prompts.jsonl", *ROWS)
    assert main(["draw", str(out), "--engine", "toy", "--count", "12", "--prompts", str(prompts)]) == 130
    assert 1 <= len(out.read_text().splitlines()) <= 7
