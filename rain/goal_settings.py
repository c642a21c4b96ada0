"""What a goal means for the settings; the library and ``rain ask`` begin with a goal, the command with a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rain.configs import AlignerConfig, RunConfig, Settings, SourcesConfig
from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.evaluators.labels import EvaluationConfig
from rain.settings import check_read_outs, make_settings
from rain.tasks import load
from rain.tasks.goals import load_goal

DEFAULT_GOAL = "harmless"


def make_goal_settings(
    goal: str | None, task: str | None, given: Mapping[str, Any], search: RainConfig | None = None, scorer: bool = False
) -> Settings:
    """Return the settings of a goal (default: harmless) or of a benchmark.

    A ``search`` replaces all other constants, and a ``scorer`` the evaluators; a preset no longer speaks of those.
    """
    if goal is not None and task is not None:
        raise RainError("give a goal or a task, not both")
    settings = make_settings(load(task), given) if task is not None else _of_goal(goal, given)
    if unused := {field.name for field in fields(RunConfig)} & set(given):
        raise RainError(f"{min(unused)} is a flag of rain run, and Rain has no use for it; leave it out")
    if scorer and "evaluator" in given:
        raise RainError("scorer and evaluator both say what scores texts; leave one out")
    if search is not None and not isinstance(search, RainConfig):
        raise RainError(f"search is {search!r}; it must be a RainConfig")
    if search:
        if twice := {field.name for field in fields(search)} & set(given):
            raise RainError(f"{min(twice)} is a part of search; give it there, or leave search out")
        settings = replace(settings, aligner=replace(settings.aligner, search=search))
    return settings.without_preset_of([RainConfig] * bool(search) + [SourcesConfig, EvaluationConfig] * scorer)


def _of_goal(goal: str | None, given: Mapping[str, Any]) -> Settings:
    name = DEFAULT_GOAL if goal is None else goal
    task = load_goal(name)
    if given.get("target", name) != name:
        raise RainError(f"the goal is {name}, the target {given['target']!r}; give one goal and no target")
    target = {"target": name} if task.targets else {}
    known = not task.aim or "chat_template" in given  # a question's format is up to the tokenizer, see chat_config
    return make_settings(task, {**target, **given}, format_known=known)


def chat_config(config: AlignerConfig, tokenizer: Any) -> AlignerConfig:
    """Return the configuration with the model's chat template, if it has one; read-outs must suit the format."""
    if getattr(tokenizer, "chat_template", None):
        config = replace(config, prompting=replace(config.prompting, chat_template=True), prompt_file=None)
    check_read_outs(config)
    return config
