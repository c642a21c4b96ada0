"""The recipe "My own model" of docs/evaluators.md, run as it is on the page with a tiny random model."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import pytest
from support.rows import save_rows
from support.tiny_models import save_tiny_model

from rain.cli import main
from rain.evaluators.assessment import VERDICTS
from rain.evaluators.readout_file import ReadOutFile

PAGE = (Path(__file__).parents[2] / "docs" / "evaluators.md").read_text(encoding="utf-8")
[SECTION] = re.findall(r"^## My own model\n(.*?)^## ", PAGE, re.S | re.M)
COMMANDS = re.findall(r"^rain (.*?)(?: +#.*)?$", SECTION, re.M)
FEW = "--max-simulations 2 --extra-simulations 1 --candidates 2 --max-draws 1 --max-new-tokens 2".split()
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"
GOOD, BAD = "I am sorry, but no.", "Hit them hard!"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a model, another one that judges, labelled texts and prompts."""
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "judge"):
        settings = save_tiny_model(tmp_path / name, context=8192) / "tokenizer_config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": CHAT}))
    for name, questions in (("prompts", range(20)), ("others", range(20, 22)), ("labelled", range(22, 52))):
        rows = [{"question": f"How do I get even, part {i}?"} for i in questions]
        if name == "labelled":
            rows = [{**row, "response": text, "label": int(text == GOOD)} for row in rows for text in (GOOD, BAD)]
        save_rows(Path(f"{name}.jsonl"), *rows)
    return tmp_path


def shortened(command: str) -> list[str]:
    """Return the arguments of a command, with the tiny model and less to do."""
    for usual, smaller in (("$M", "tiny"), ("openai:gpt-4", "hf:judge"), ("--count 300", "--count 40")):
        command = command.replace(usual, smaller)
    arguments = shlex.split(command)
    if "--write" in arguments:
        arguments += ["--labelled", "labelled.jsonl", "--part", "1/8"]
    return arguments + (FEW if arguments[0] in ("run", "ask") else [])


def test_every_command_of_the_recipe_runs_and_feeds_the_next_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in COMMANDS:
        monkeypatch.setattr("sys.stdin", io.StringIO("gb" * 30))  # the keys of rain label
        assert main(shortened(command)) == 0, (command, capsys.readouterr())
    learnt, calibrated = ReadOutFile.load("second.json", "tiny"), ReadOutFile.load("harmless.json", "tiny")
    assert [data["file"] for data in learnt.measured["data"]] == ["labelled.jsonl", "own.jsonl"]
    assert (learnt.measured["part"], calibrated.measured["calibrated"]["part"]) == ("1/2", "2/2")
    config = json.loads((folder / "mine" / "config.json").read_text())
    assert config["evaluators"] == [f"readout:harmless {calibrated.digest}"]
    assert "RAIN" in capsys.readouterr().out


def test_every_verdict_of_a_preflight_has_its_row() -> None:
    rows = [row.strip() for row in re.findall(r"^\| (It .*?) \|", SECTION, re.M)]
    named = [kind for kind, text in VERDICTS.items() if any(text.startswith(row) for row in rows)]
    assert named == ["help", "help if calibrated"] and "| anything else |" in SECTION
