"""Finds benchmarks by name, in the folders beside the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rain.core.errors import RainError
from rain.tasks.task import Task

FOLDERS = {"hh": "HH", "adv": "adv", "truth": "truth", "imdb": "imdb"}


def find_task(name: str) -> Task:
    """Load the Task of a benchmark from its allocation.py.

    Raises:
        RainError: there is no such benchmark, or RAIN was installed without its folders (install it with ``-e``).
    """
    if name not in FOLDERS:
        raise RainError(f"--task is {name!r}; it must be one of {', '.join(FOLDERS)}")
    for root in (Path(__file__).resolve().parent.parent, Path.cwd(), Path.cwd().parent):
        path = root / FOLDERS[name] / "allocation.py"
        spec = importlib.util.spec_from_file_location(f"rain_task_{name}", path)
        if path.is_file() and spec and spec.loader:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            task: Task = module.TASK
            return task
    raise RainError(f"cannot find {FOLDERS[name]}/allocation.py; install RAIN from its checkout with pip install -e .")
