"""The example of docs/goals.md, run as it is on the page with the embedded model."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from rain import Rain
from rain.cli import main
from rain.launch import parse
from rain.tasks import load

PAGE = (Path(__file__).parents[2] / "docs" / "goals.md").read_text(encoding="utf-8")
FEW = "--e 1 --max-simulations 1 --extra-simulations 1 --max-new-tokens 1 --candidates 2 --max-draws 1".split()


def command(name: str) -> list[str]:
    """Return the arguments of a command on the page."""
    [line] = re.findall(rf"^rain ({name} .*)$", PAGE, re.M)
    return shlex.split(line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of the page, and the calibration that its preflight command writes."""
    folder = tmp_path_factory.mktemp("page")
    for name, content in re.findall(r"`(polite/[\w.]+)`[^`]*:\n\n```\w*\n(.*?)^```", PAGE, re.S | re.M):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*command("preflight"), "--dtype", "float32"]) == 0  # the number format of the page's numbers
    return folder


def test_the_calibration_is_the_one_on_the_page(folder: Path) -> None:
    measured = json.loads((folder / "polite" / "calibration.json").read_text())
    [(offset, scale)] = re.findall(r"offset (\S+) nats, scale (\S+) per nat", PAGE)
    assert measured["offset"] == pytest.approx(float(offset), abs=0.02)
    assert measured["scale"] == pytest.approx(float(scale), abs=0.02)


def test_the_run_command_takes_template_and_calibration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    aligner = parse(load("hh"), command("run")[2:]).settings.aligner
    assert aligner.template.name == "polite.txt"
    assert aligner.evaluation.votes == "soft"
    assert aligner.evaluation.offset == pytest.approx(-1.65, abs=0.05)


def test_the_library_takes_the_same_template(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    [code] = re.findall(r"```python\n(from rain import Rain\n.*?)```", PAGE, re.S)
    made: list[Rain] = []
    monkeypatch.setattr(Rain, "generate", lambda self, prompt: made.append(self))
    exec(code, {})
    assert made[0].settings.aligner.template.name == "polite.txt"
    assert made[0].settings.aligner.evaluation.votes == "soft"
    made[0].close()


def test_the_task_answers_its_own_prompts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "polite" / "allocation.py"
    monkeypatch.setattr(sys, "argv", [str(script), *FEW, "--outdir", str(folder / "task")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    record = json.loads((folder / "task" / "res_0.jsonl").read_text())
    assert record["question"] == "My parcel is late. What are you going to do about it?"
    assert record["id"].startswith("polite-00000-") and record["raina"] and record["pa"]
