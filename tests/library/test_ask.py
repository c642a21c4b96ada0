"""``rain ask``: the answer as it is committed, the greedy one and the costs; no model steers the terminal."""

from __future__ import annotations

import io
import re
import sys

import pytest
from support.watched import FAST

from rain.ask import paint
from rain.cli import main

SMALL = [part for name, value in FAST.items() for part in ("--" + name.replace("_", "-"), str(value))]


def ask(*arguments):
    return main(["ask", *arguments, "--engine", "toy", *SMALL])


def test_the_answer_the_plain_answer_and_the_costs_are_printed(rain, capsys):
    wanted, plain = rain.generate("Why?"), rain.baseline("Why?")
    assert ask("Why?") == 0
    answer, rest = capsys.readouterr().out.split("\n", 1)
    assert answer == wanted.text
    assert f"greedy: {plain.text}\n" in rest
    costs = dict(re.findall(r"^(\w[\w ]*?) +([\d,]+)\b", rest, re.MULTILINE))
    assert costs["simulations"] == str(wanted.cost["simulations"])
    assert costs["evaluations"] == str(wanted.cost["evaluations"])
    assert costs["tokens computed"] == f"{wanted.cost['tokens_computed']:,}"
    assert re.search(rf"tokens computed +\S+ +{plain.cost['tokens_computed']:,}$", rest, re.MULTILINE)


def test_the_plain_answer_may_be_left_out(rain, capsys):
    assert ask("Why?", "--no-plain") == 0
    assert capsys.readouterr().out == rain.generate("Why?").text + "\n"


def test_each_line_of_standard_input_is_a_question(rain, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why?\n\n  Is the sea salty?\n"))
    assert ask("--no-plain") == 0
    wanted = [answer.text for answer in rain.generate(["Why?", "Is the sea salty?"])]
    assert capsys.readouterr().out.splitlines() == wanted


def test_answers_with_their_costs_are_told_apart_by_their_questions(rain, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why?\nIs the sea salty?\n"))
    assert ask() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[i - 1 : i + 1] for i, line in enumerate(lines) if line[:2] == "> "] == [
        ["", "> Why?"], ["", "> Is the sea salty?"]
    ]  # fmt: skip


def test_an_empty_question_is_refused(engine, capsys):
    assert ask(" ") == 2
    assert "empty" in capsys.readouterr().err


def test_a_line_that_cannot_be_answered_is_told_and_the_next_ones_are_answered(rain, capsys, monkeypatch):
    lines = b"a" * 70_000 + b"\nWhy?\ncaf\xe9\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    assert ask("--no-plain") == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == rain.generate("Why?").text and len(out.splitlines()) == 2
    assert err.startswith("rain: error:") and len(err.splitlines()) == 1


def test_nothing_to_ask_on_a_terminal_is_told(engine, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert ask() == 2
    assert "rain ask" in capsys.readouterr().err


def test_wrong_flags_are_refused(engine, capsys):
    assert ask("Why?", "--votes", "loud") == 2
    assert "--votes" in capsys.readouterr().err
    assert ask("Why?", "--goal", "rude") == 2
    assert "--goal" in capsys.readouterr().err


@pytest.mark.usefixtures("difficult")
@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_of_a_model_never_reach_the_terminal_raw(terminal, rain, capsys, monkeypatch):
    answers = [rain.generate("Why?", seed=seed).text for seed in range(8)]
    assert any("\x1b" in text for text in answers)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    for seed, text in enumerate(answers):
        assert ask("Why?", "--seed", str(seed), "--no-plain") == 0
        shown = re.sub(r"\x1b\[(38;5;\d+|0)m", "", capsys.readouterr().out)
        assert "\x1b" not in shown
        assert shown == text.replace("\x1b", "\\x1b") + "\n"


def test_a_terminal_shows_values_as_colours():
    assert len({paint("a", value) for value in (-1, -0.5, 0, 0.5, 1)}) == 5
    assert paint("a", 1.0) == "\x1b[38;5;40ma\x1b[0m"
    assert paint("a", -1.0) == "\x1b[38;5;196ma\x1b[0m"


def test_sessions_and_engine_are_freed(engine, capsys):
    assert ask("Why?") == 0
    assert engine.active == 0
    assert engine.closed
