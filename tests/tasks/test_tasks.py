"""Tasks and goals by name, their files, presets and targets; the four allocation files."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from rain.cli import main
from rain.core.errors import RainError
from rain.evaluators.assessment import read_preflight
from rain.evaluators.registry import describe
from rain.evaluators.templates import Template, load_prompt
from rain.settings import make_settings
from rain.tasks import BUILT_IN, load, names
from rain.tasks.goals import GOALS, READ_OUT, load_goal
from rain.tasks.task import Task

ROOT = Path(__file__).parents[2]
FOLDERS = {"hh": "HH", "adv": "adv", "truth": "truth", "imdb": "imdb"}
LETTERS = {"truth": "HH/templates/harmless_letters.txt", "imdb": "imdb/templates/positive_letters.txt"}
SMALL = "--engine toy --e 1 --max-simulations 2 --extra-simulations 1 --max-new-tokens 4 --concurrency 1".split()
PREFLIGHT = "preflight_smollm2.json"


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_file_that_a_task_and_its_preset_name_is_in_its_folder_and_can_be_read(name: str) -> None:
    task = load(name)
    assert (task.name, task.folder) == (name, ROOT / FOLDERS[name])
    assert task.path(task.dataset).is_file()
    assert load_prompt(task.path(task.prompt))
    Template.from_file(task.path(task.template))
    preset = task.presets["smollm2"]
    origin, _ = read_preflight(task.path(preset["calibration"]))
    template = Path(preset.get("templates", task.template)).name
    assert (origin["task"], origin["model"], origin["template"]) == (name, "smollm2", template)
    assert (task.folder / origin["labelled"]).is_file()


def test_presets_give_way_to_what_is_given_and_stand_above_the_task() -> None:
    adv = make_settings(load("adv"), {"max_new_tokens": 24})
    assert adv.aligner.search.min_visits == 5, "the task's"
    assert adv.aligner.search.max_new_tokens == 24, "given"
    assert adv.preset == {"evaluator": ("readout:harmless",), "chat_template": True}
    assert [describe(spec).partition(" ")[0] for spec in adv.aligner.evaluators] == ["readout:harmless"]
    assert adv.aligner.prompt_file is None
    assert adv.aligner.evaluation.offset == 0, "that of label words"


@pytest.mark.parametrize(
    "given", [{"evaluator": ("labels",)}, {"votes": "soft"}, {"engine": "http", "base_url": "http://a"}]
)
def test_a_preset_s_label_words_hold_where_the_read_out_does_not(given: dict[str, Any]) -> None:
    adv = make_settings(load("adv"), given)
    assert adv.aligner.evaluators == ("labels",)
    assert adv.aligner.evaluation.votes == "soft"
    assert adv.aligner.prompt_file is not None
    measured = json.loads((ROOT / "adv" / "preflight_smollm2.json").read_text())
    assert (adv.aligner.evaluation.offset, adv.aligner.evaluation.scale) == (measured["offset"], measured["scale"])


@pytest.mark.parametrize("given", [{"preset": "none"}, {"modelname": "org/model"}, {"engine": "toy"}])
def test_the_paper_s_settings_hold_without_a_preset(given: dict[str, str]) -> None:
    settings = make_settings(load("hh"), given)
    assert settings.preset == {}
    assert settings.aligner.evaluation.votes == "hard"
    assert settings.aligner.evaluation.offset == 0
    assert settings.aligner.template.kind == "letters"


def test_a_task_with_targets_takes_no_other_word_for_them() -> None:
    with pytest.raises(RainError, match="--target positive or negative"):
        make_settings(load("imdb"), {"invert": True})


@pytest.mark.parametrize(
    ("target", "invert"), [({}, False), ({"target": "positive"}, False), ({"target": "negative"}, True)]
)
def test_the_second_target_inverts_the_scores(target: dict[str, str], invert: bool) -> None:
    evaluation = make_settings(load("imdb"), target).aligner.evaluation
    assert evaluation.invert is invert
    assert evaluation.target == target.get("target", "positive")
    assert (evaluation.score([9.0]) < 0) is invert


@pytest.mark.parametrize(("task", "target"), [("imdb", "sad"), ("hh", "positive")])
def test_a_target_that_a_task_does_not_offer_is_refused(task: str, target: str) -> None:
    with pytest.raises(RainError, match=f"--target is '{target}'"):
        make_settings(load(task), {"target": target})


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_allocation_file_of_every_task_answers_a_prompt(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ROOT / FOLDERS[name] / "allocation.py"
    templates = ["--templates", str(ROOT / LETTERS[name])] if name in LETTERS else []  # the toy's labels are letters
    monkeypatch.setattr(sys, "argv", [str(script), *SMALL, *templates, "--outdir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    [record] = [json.loads(line) for line in (tmp_path / "out" / "res_0.jsonl").read_text().splitlines()]
    assert record["id"].startswith(f"{name}-00000-")
    assert record["commits" if "commits" in record else "moves"]


def test_a_file_beside_the_current_folder_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("HH", "work/HH"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "allocation.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path / "work")
    assert load("hh").folder == ROOT / "HH"


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RainError, match="'hhh'.*hh, adv, truth, imdb"):
        load("hhh")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of packages; the distribution in it registers the tasks mine, broken and odd."""
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    entries = {"mine": "my_task:TASK", "broken": "my_missing:TASK", "odd": "my_task:NAME", "hh": "my_task:TASK"}
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[rain.tasks]", *lines]))
    code = ["from dataclasses import replace", "from rain.tasks.hh import TASK as HH"]
    code += ['NAME = "x"', "TASK = replace(HH, name='mine')"]
    (tmp_path / "my_task.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    return tmp_path


def test_another_package_can_register_tasks_but_not_replace_one(package: Path) -> None:
    assert names() == [*BUILT_IN, "broken", "mine", "odd"]
    assert isinstance(load("mine"), Task)
    assert load("mine").name == "mine"
    assert load("hh").name == "hh"


@pytest.mark.parametrize(("name", "reason"), [("broken", "cannot be imported"), ("odd", "is str, not")])
def test_a_registered_task_that_is_not_one_is_refused(package: Path, name: str, reason: str) -> None:
    with pytest.raises(RainError, match=reason):
        load(name)


def test_goals_are_tasks_with_a_direction() -> None:
    assert list(GOALS) == ["harmless", "truthful", "positive", "negative"]
    for name in GOALS:
        targets = load_goal(name).targets
        assert not targets or name in targets
    with pytest.raises(RainError, match="'kind'.*harmless, truthful"):
        load_goal("kind")


def test_rain_goals_shows_what_preflight_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["goals"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for goal in GOALS:
        [row] = [row for row in rows if row[0] == goal]
        origin, measured = read_preflight(load_goal(goal).path(PREFLIGHT if goal == "truthful" else READ_OUT))
        [guide] = make_settings(load_goal(goal), {}).aligner.evaluators
        assert origin["evaluators"] == [describe(guide)], "what was measured is what guides the search"
        assert row[4] == str(measured.texts)
        assert f"{measured.auc:.2f}" in row
        assert measured.expectation in " ".join(row)
