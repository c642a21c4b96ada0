"""The values in docs/constants.md are those of the code."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rain.core.config import RainConfig
from rain.evaluators.labels import EvaluationConfig
from rain.presets import choose_preset
from rain.settings import make_settings
from rain.tasks import BUILT_IN, load

PAGE = (Path(__file__).parents[2] / "docs" / "constants.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[dict[str, str]]:
    """Return the rows of the table under a heading, each by the names of its columns."""
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in cells] for cells in lines]
    return [dict(zip(head, cells, strict=True)) for cells in body]


def shown(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


@pytest.mark.parametrize("task", BUILT_IN)
def test_the_constants_of_a_task_are_those_on_the_page(task: str) -> None:
    config = load(task).config
    found = {row["flag"].strip("`"): row[task].strip("*") for row in rows("The search")}
    fields = [field.name for field in dataclasses.fields(RainConfig)]
    assert found == {"--" + name.replace("_", "-"): shown(getattr(config, name)) for name in fields}


@pytest.mark.parametrize("task", BUILT_IN)
def test_what_differs_from_hh_is_bold_and_a_published_value_is_the_default(task: str) -> None:
    for row in rows("The search"):
        value = row[task].strip("*")
        assert (row[task] != value) == (value != row["hh"]), row["flag"]
        if row["published value"] and task != "imdb":
            usual, *others = re.split("[;,] ", row["published value"])
            assert value == dict(other.split() for other in others).get(task, usual), row["flag"]


@pytest.mark.parametrize("task", BUILT_IN)
def test_the_rules_of_a_task_are_those_on_the_page(task: str) -> None:
    found = {row["field of the task"].split("`")[1]: row[task] for row in rows("Rollouts, ends and evaluation")}
    rules = load(task)
    stops = tuple(json.loads(string) for string in re.findall(r"`(.*?)`", found.pop("stop_strings")))
    assert stops == rules.stop_strings
    assert found.pop("template").strip("`") == Path(rules.template).name
    assert int(found.pop("rollout_limit")) == rules.rollout_limit
    assert found == {name: "yes" if getattr(rules, name) else "no" for name in found}


def test_the_votes_are_the_papers_by_default() -> None:
    assert (EvaluationConfig().votes, EvaluationConfig().offset) == ("hard", 0)
    assert "(`--votes hard`), without offset (`--offset 0`)" in PAGE


@pytest.mark.parametrize("column", [*BUILT_IN, "hh, labels", "adv, labels", "imdb, labels"])
def test_the_preset_is_the_one_on_the_page(column: str) -> None:
    name, labels = column.partition(", ")[::2]
    given = {"evaluator": ("labels",)} if labels else {}
    expected: dict[str, str] = {}
    for key, value in choose_preset(load(name), given).items():
        text = value if isinstance(value, str) else shown(value)
        expected["--" + key.replace("_", "-")] = Path(text).name if key == "templates" else text
    if "--calibration" in expected:
        evaluation = make_settings(load(name), given).aligner.evaluation
        expected["--calibration"] = f"{evaluation.offset:.3f}, {evaluation.scale:.3f}"
    found = {row["flag"].split("`")[1]: row[column].strip("`") for row in rows("What the preset of smollm2 changes")}
    assert {flag: value for flag, value in found.items() if value} == expected
