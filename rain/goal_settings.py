"""What a goal means for the settings; the library and ``rain ask`` begin with a goal, the command with a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rain.configs import AlignerConfig, Settings
from rain.core.errors import RainError
from rain.settings import make_settings
from rain.tasks import load
from rain.tasks.goals import load_goal

DEFAULT_GOAL = "harmless"


def make_goal_settings(goal: str | None, task: str | None, given: Mapping[str, Any]) -> Settings:
    """Return the settings of a goal (default: harmless) or of a benchmark."""
    if goal and task:
        raise RainError("give a goal or a task, not both")
    if task:
        return make_settings(load(task), given)
    found = load_goal(goal or DEFAULT_GOAL)
    if given.get("target", found.name) != found.name:
        raise RainError(f"the goal is {found.name}, the target {given['target']!r}; give one goal and no target")
    base, target = load(found.task), {"target": found.name}
    known = not found.chat or "chat_template" in given  # otherwise the tokenizer decides, see chat_config
    return make_settings(base, {**(target if base.targets else {}), **given}, format_known=known)


def chat_config(config: AlignerConfig, tokenizer: Any) -> AlignerConfig:
    """Return the configuration with the model's chat template as the prompt format, if it has one."""
    if not getattr(tokenizer, "chat_template", None):
        return config
    return replace(config, prompting=replace(config.prompting, chat_template=True), prompt_file=None)
