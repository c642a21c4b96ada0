"""Tasks by name: those that come with RAIN, and those that other packages register."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from rain.core.errors import RainError
from rain.tasks.task import Task

BUILT_IN = ("hh", "adv", "truth", "imdb")
GROUP = "rain.tasks"
"""The entry point group in which a package registers a task: its name, and where its ``Task`` is."""


def names() -> list[str]:
    """Return the names of all tasks, those that come with RAIN first."""
    return [*BUILT_IN, *sorted({entry.name for entry in entry_points(group=GROUP)} - set(BUILT_IN))]


def load(name: str) -> Task:
    """Return a task by its name.

    Raises:
        RainError: there is no such task, or another package's task cannot be imported.
    """
    if name in BUILT_IN:
        built_in: Task = importlib.import_module(f"rain.tasks.{name}").TASK
        return built_in
    for entry in entry_points(group=GROUP, name=name):
        try:
            task = entry.load()
        except Exception as error:  # another package's code may fail in any way
            raise RainError(f"the task {name} ({entry.value}) cannot be imported: {error}") from error
        if not isinstance(task, Task):
            raise RainError(f"the task {name} ({entry.value}) is {type(task).__name__}, not a rain.tasks.task.Task")
        return task
    raise RainError(f"unknown task {name!r}; it must be one of {', '.join(names())}")
