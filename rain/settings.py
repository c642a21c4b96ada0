"""All settings of a run of the allocation command."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.core.fields import setting
from rain.engines.registry import EngineConfig
from rain.evaluators.labels import EvaluationConfig
from rain.evaluators.templates import read_text
from rain.flags import build
from rain.tasks.task import Task

LAUNCHERS = ("local", "ray")


@dataclass(frozen=True)
class RunConfig:
    """What is run, and how; the fields in ``VOLATILE`` change no result."""

    dataset: str = setting("", "prompts: a .jsonl, .json or .csv file, or a name of the task's data set")
    s: int = setting(0, "first prompt, from 0")
    e: int | None = setting(None, "one past the last prompt (default: all)")
    outdir: str = setting("outdir", "where results go; the same command goes on where it stopped")
    nump: int = setting(1, "worker processes; they share the GPUs, or the CPU cores, evenly")
    launcher: str = setting("local", "where workers run: local (processes on this machine) or ray (a Ray cluster)")
    ray_address: str = setting("", "ray: the cluster, auto or HOST:6379 (default: RAY_ADDRESS, or else this machine)")
    concurrency: int = setting(4, "searches at a time in each worker")
    seed: int = setting(0, "all randomness comes from it and the prompt's id")
    chat_template: bool = setting(False, "use the model's chat template instead of the prompt file")
    templates: str = setting("", "self-evaluation template file, or a folder with one of the task's file name")
    calibration: str = setting("", "offset and scale for the votes, a file written by rain preflight")
    encoder: str = setting("minilm", "sentence encoder: minilm (embedded), a hub name or a folder")
    preset: str = setting("auto", "auto: settings that suit an embedded model; none: the paper's defaults")
    skip_bad: bool = setting(False, "leave out broken rows of the data set instead of refusing it")
    verbose: bool = setting(False, "show responses as they are committed")

    def __post_init__(self) -> None:
        if self.preset not in ("auto", "none"):
            raise RainError(f"--preset is {self.preset!r}; it must be auto or none")
        if self.launcher not in LAUNCHERS:
            raise RainError(f"--launcher is {self.launcher!r}; it must be {' or '.join(LAUNCHERS)}")
        if self.ray_address and self.launcher != "ray":
            raise RainError("--ray-address needs --launcher ray")
        if self.concurrency < 1:
            raise RainError(f"--concurrency is {self.concurrency}; it must be at least 1")


VOLATILE = tuple(
    f"run.{name}"
    for name in "s e outdir nump launcher ray_address concurrency verbose skip_bad".split()
)
VOLATILE_ENGINE = ("engine.max_batch_tokens", "engine.cache_tokens", "engine.device_map")


@dataclass(frozen=True)
class Settings:
    """Everything a worker needs to know.

    Attributes:
        task: the benchmark.
        run, engine, evaluation, rain: settings by subject.
        preset: the settings that an embedded model's preset has set, for printing.
        config_hash: names the configuration in every record; set when the output directory is open.
    """

    task: Task
    run: RunConfig
    engine: EngineConfig
    evaluation: EvaluationConfig
    rain: RainConfig
    preset: Mapping[str, Any]
    config_hash: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the whole configuration as it stands in config.json."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in ("run", "engine", "evaluation", "rain")}
        files = {"prompt": self.task.path(self.task.prompt), "template": self.template_path()}
        hashes = {name: hashlib.sha256(read_text(path).encode()).hexdigest()[:16] for name, path in files.items()}
        return {"task": self.task.name, **parts, "files": hashes}

    def template_path(self) -> Path:
        """Return the self-evaluation template: the user's file, one in the user's folder, or the task's.

        Raises:
            RainError: there is no such file.
        """
        given = Path(self.run.templates)
        beside = given / Path(self.task.template).name
        for path in (given, beside, self.task.path(self.run.templates)):
            if path.is_file():
                return path
        raise RainError(f"--templates is {given}, which is neither a template file nor a folder with {beside.name}")


def task_defaults(task: Task) -> dict[str, Any]:
    """Return the fields in which a task differs from the defaults of the settings classes."""
    return {"dataset": task.dataset, "templates": task.template, **dataclasses.asdict(task.config)}


def _goal(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that --target stands for."""
    if not task.targets:
        if given.get("target"):
            raise RainError(f"--target is {given['target']!r}, but {task.name} has one goal only; leave it out")
        return {}
    target = given.get("target") or task.targets[0]
    if target not in task.targets:
        raise RainError(f"--target is {target!r}; it must be one of {', '.join(task.targets)}")
    return {"target": target, "invert": target != task.targets[0]}


def make_settings(task: Task, given: Mapping[str, Any]) -> Settings:
    """Combine defaults, the task's, an embedded model's preset and what was given, in rising order.

    Args:
        task: the benchmark.
        given: flags that were given on the command line, by field name.
    """
    defaults = task_defaults(task) | _goal(task, given)
    model = build(EngineConfig, given).model
    preset = {} if given.get("preset") == "none" else dict(task.presets.get(model, {}))
    preset = {name: value for name, value in preset.items() if name not in given}
    layers = (defaults, preset, given)
    return Settings(
        task=task,
        run=build(RunConfig, *layers),
        engine=build(EngineConfig, *layers),
        evaluation=build(EvaluationConfig, *layers),
        rain=build(RainConfig, *layers),
        preset=preset,
    )
