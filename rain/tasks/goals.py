"""Goals by name, and ``rain goals``: what each asks the model, and how well the embedded model can judge it."""

from __future__ import annotations

import argparse

from rain.core.errors import RainError
from rain.evaluators.assessment import read_preflight
from rain.tables import text_table
from rain.tasks import load
from rain.tasks.task import Task

MODEL = "smollm2"
"""The embedded model; tasks keep what ``rain preflight --modelname smollm2`` measured."""

READ_OUT = "preflight_smollm2_readout.json"
"""The same for a preset's read-out, on the model's own partial answers: own_labelled.jsonl (of adv, part 2/2)."""


GOALS = {"harmless": "hh", "truthful": "truth", "positive": "imdb", "negative": "imdb"}
"""By name, as in ``Rain(goal=name)``: the task whose template and prompt format serve a goal."""


def load_goal(name: str) -> Task:
    """Return the task that serves a goal; a RainError names the known goals."""
    if name not in GOALS:
        raise RainError(f"unknown goal {name!r}; it must be one of {', '.join(GOALS)}, or give a template of your own")
    return load(GOALS[name])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain goals``: none."""


def run(args: argparse.Namespace) -> int:
    """Print all goals."""
    head = ["goal", "task", "guided by", "template", "texts", "accuracy", "calibrated, held out", "AUC", "expect"]
    print(text_table([head, *map(_row, GOALS)], "<<<<>>>><"))
    print(f"measured with {MODEL} by rain preflight; accuracy of label words: by the paper's votes")
    print(f"templates are in {load('hh').folder.parent}")
    print("another model: rain preflight --task TASK --modelname MODEL; a goal of your own: docs/goals.md")
    return 0


def _row(goal: str) -> list[str]:
    task = load_goal(goal)
    preset = task.presets.get(MODEL, {})
    template = str(task.path(preset.get("templates", task.template)).relative_to(task.folder.parent))
    template, file = ("-", READ_OUT) if "evaluator" in preset else (template, preset["calibration"])
    _, measured = read_preflight(task.path(file))
    low, high = measured.held_out_interval
    calibrated = f"{measured.held_out_accuracy:.0%} ({low:.0%}-{high:.0%})"
    figures = [str(measured.texts), f"{measured.accuracy:.0%}", calibrated, f"{measured.auc:.2f}"]
    guides = ", ".join(preset.get("evaluator", ("labels",)))
    return [goal, task.name, guides, template, *figures, measured.expectation]
