"""What is aligned (hashed, in the records) and how it is run (not), made of defaults, presets and flags."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rain.core.config import RainConfig
from rain.core.digest import digest
from rain.core.errors import RainError
from rain.core.fields import flag, setting, validate
from rain.engines.registry import ModelConfig, PlacementConfig, check_engine
from rain.evaluators.labels import EvaluationConfig, read_calibration
from rain.evaluators.registry import KINDS, ONE_WAY, Spec, describe, parse_spec
from rain.evaluators.templates import Template, load_prompt
from rain.flags import add_flags, build
from rain.methods.config import MethodConfig
from rain.presets import choose_preset
from rain.prompts import PromptFile
from rain.tasks.task import Task


@dataclass(frozen=True)
class PromptingConfig:
    """How a prompt reaches the model, and where randomness comes from."""

    seed: int = setting(0, "all randomness comes from it and the prompt's id", basic=True)
    chat_template: bool = setting(False, "use the model's chat template instead of the prompt file")
    encoder: str = setting("minilm", "sentence encoder: minilm (embedded), a hub name or a folder")


@dataclass(frozen=True)
class SourcesConfig:
    """Where evaluation template and calibration come from; what they say is in ``AlignerConfig``."""

    evaluator: tuple[str, ...] = setting(
        ("labels",), f"what scores texts: {KINDS}; of several the smallest score counts"
    )
    templates: str = setting("", "self-evaluation template: a file, or a folder with one of the task's file name")
    evaluator_template: str = setting("", "what model: is asked: a template file (default: that of the labels)")
    evaluator_base_url: str = setting("", "server that runs model:, such as http://127.0.0.1:8000/v1 (default: here)")
    calibration: str = setting("", "offset and scale of the evaluator: a file written by rain preflight")
    preset: str = setting(
        "auto", "auto: settings that suit an embedded model; none: the paper's defaults", choices=("auto", "none")
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class RunConfig:
    """Which prompts are answered, where results go and what works on them; it changes no answer."""

    dataset: str = setting("", "prompts: a .jsonl, .json or .csv file, or the name of a data set", basic=True)
    s: int = setting(0, "first prompt, from 0", basic=True)
    e: int | None = setting(None, "one past the last prompt (default: all)", basic=True)
    outdir: str = setting("outdir", "output folder; run the same command again to resume", basic=True)
    nump: int = setting(1, "worker processes; they share the GPUs, or the CPU cores, evenly", low=1, basic=True)
    gpu_share: int = setting(1, "worker processes that may share one GPU and its memory (local launcher)", low=1)
    concurrency: int = setting(4, "maximum searches at once in each worker", low=1, basic=True)
    launcher: str = setting(
        "local",
        "where workers run: local (processes on this machine) or ray (a Ray cluster)",
        choices=("local", "ray"),
    )
    ray_address: str = setting("", "ray: the cluster, auto or HOST:6379 (default: RAY_ADDRESS, or else this machine)")
    stall_timeout: float = setting(
        600.0, "kill a worker that gives no sign of life for so long, and start another (seconds; 0: never)", low=0
    )
    skip_bad: bool = setting(False, "leave out broken rows of the data set instead of refusing it")
    verbose: bool = setting(False, "show responses as they are committed")
    trace: bool = setting(False, "record each search in OUTDIR/trace, for rain view (docs/view.md)")

    def __post_init__(self) -> None:
        validate(self)
        if self.ray_address and self.launcher != "ray":
            raise RainError("--ray-address needs --launcher ray")
        if self.gpu_share > 1 and self.launcher == "ray":
            raise RainError(f"--gpu-share is {self.gpu_share}, but --launcher ray gives every worker whole GPUs")


@dataclass(frozen=True)
class AlignerConfig:
    """What is aligned: everything that an answer depends on, as values that can be sent to another machine.

    Attributes:
        task: whose stop rules hold.
        model: what answers.
        method, prompting, evaluation, search: settings by subject.
        evaluators: what scores texts.
        template: what the model is asked about its text.
        prompt_file: the format of a question; None: the model's chat template.
    """

    task: Task
    model: ModelConfig
    method: MethodConfig
    prompting: PromptingConfig
    evaluation: EvaluationConfig
    search: RainConfig
    evaluators: tuple[Spec, ...]
    template: Template
    prompt_file: PromptFile | None

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name this configuration in every record."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as it is in config.json; long texts by the first digits of their SHA-256."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in PARTS}
        task = {name: getattr(self.task, name) for name in TASK_RULES}
        template, prompt_file = dataclasses.asdict(self.template), self.prompt_file
        texts = {"template": digest(template), "prompt_file": digest(prompt_file) if prompt_file else None}
        names = {"evaluators": [describe(spec) for spec in self.evaluators], "template_name": template["name"]}
        return {"task": self.task.name, "rules": task, **parts, **names, **texts}


PARTS = ("model", "method", "prompting", "evaluation", "search")
TASK_RULES = ("stop_strings", "to_end", "rollout_limit", "cut_after_full_stop", "aim")


@dataclass(frozen=True)
class Settings:
    """Everything about a run.

    Attributes:
        aligner: what is aligned.
        placement: where the model runs.
        run: prompts, results and workers.
        preset: the settings that an embedded model's preset has set, for printing.
    """

    aligner: AlignerConfig
    placement: PlacementConfig
    run: RunConfig
    preset: Mapping[str, Any]

    def preset_notice(self, off: str) -> str:
        """Return which defaults an embedded model's preset replaces, empty if it has none; ``off`` turns it off."""
        shown = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in self.preset.items()}
        chosen = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in shown.items())
        name = self.aligner.model.name
        return f"rain: preset for {name}: {chosen} ({off}: the paper's settings)" if chosen else ""


CONFIGS: tuple[tuple[type[Any], str], ...] = (
    (RunConfig, "run"),
    (ModelConfig, "model"),
    (PlacementConfig, "placement"),
    (MethodConfig, "method"),
    (PromptingConfig, "prompting"),
    (SourcesConfig, "evaluation sources"),
    (EvaluationConfig, "evaluation"),
    (RainConfig, "search"),
)
"""Every class of settings with the title of its group of flags."""


def add_answer_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every class but ``RunConfig``: what commands without a run take."""
    basic = parser.add_argument_group("what everybody needs")
    for config, title in CONFIGS:
        if config is not RunConfig:
            add_flags(parser, config, {}, title, basic)


def task_defaults(task: Task) -> dict[str, Any]:
    """Return the fields in which a task differs from the defaults of the settings classes."""
    return {"dataset": task.dataset, "templates": task.template, **dataclasses.asdict(task.config)}


def make_settings(task: Task, given: Mapping[str, Any]) -> Settings:
    """Combine defaults, the task's, an embedded model's preset and what was given; later ones win.

    Args:
        task: the benchmark.
        given: settings by field name, such as the flags of the command line.

    Raises:
        RainError: a name is unknown, a value is out of range, or a template or calibration cannot be read.
    """
    check_names(given)
    preset = choose_preset(task, given)
    layers: list[Mapping[str, Any]] = [_in_folder(task, task_defaults(task)), _resolve_target(task, given)]
    layers += [layer for part in (_in_folder(task, preset), given) for layer in (_calibration(task, part), part)]
    model, sources, method = build(ModelConfig, *layers), build(SourcesConfig, *layers), build(MethodConfig, *layers)
    method.check(given, task.name, task.aim)
    prompting = build(PromptingConfig, *layers)
    prompt_file = None if prompting.chat_template else load_prompt(task.path(task.prompt))
    template = Template.from_file(template_path(task, sources.templates))
    asked = Template.from_file(sources.evaluator_template) if sources.evaluator_template else template
    server = sources.evaluator_base_url
    evaluators = tuple(parse_spec(spec, model.name, prompt_file, asked, server) for spec in sources.evaluator)
    _calibration(task, {"calibration": sources.calibration}, [describe(spec) for spec in evaluators])
    evaluation = build(EvaluationConfig, *layers)
    if evaluation.invert:
        _check_inverted(task, evaluators, sources.calibration)
    aligner = AlignerConfig(
        task=task,
        model=model,
        method=method,
        prompting=prompting,
        evaluation=evaluation,
        search=build(RainConfig, *layers),
        evaluators=evaluators,
        template=template,
        prompt_file=prompt_file,
    )
    placement, run = build(PlacementConfig, *layers), build(RunConfig, *layers)
    check_engine(aligner.model, placement)
    if run.trace and method.method != "rain":
        raise RainError(f"--trace records searches, and --method {method.method} does not search; leave --trace out")
    return Settings(aligner, placement, run, preset)


def _check_inverted(task: Task, evaluators: Sequence[Spec], calibration: str) -> None:
    """Refuse what a ``--target`` other than the task's own cannot turn around.

    Raises:
        RainError: it names the setting.
    """
    if calibration and "labels" not in evaluators:
        raise RainError(
            f"--calibration {calibration} was learnt for --target {task.targets[0]}, and only label words can turn it "
            f"around; leave it out"
        )
    for spec in evaluators:
        if isinstance(spec, str) and spec.startswith(ONE_WAY):
            raise RainError(f"--evaluator {spec} says itself what is good; leave out --target, which cannot change it")


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are not settings.

    Raises:
        RainError: it names the first unknown one, and the setting that resembles it most.
    """
    known = [field.name for config, _ in CONFIGS for field in dataclasses.fields(config)]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise RainError(f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _in_folder(task: Task, layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's own settings with its files as whole paths, so that the current folder has no say in them."""
    files = {name: str(task.path(layer[name])) for name in ("templates", "calibration") if layer.get(name)}
    return {**layer, **files}


def _calibration(task: Task, layer: Mapping[str, Any], evaluators: Sequence[str] | None = None) -> dict[str, float]:
    """Return what the calibration file of a layer says; a relative path may be one in the task's folder."""
    name = layer.get("calibration")
    if not name:
        return {}
    path = Path(name)
    return read_calibration(path if path.exists() or path.is_absolute() else task.path(name), evaluators)


def _resolve_target(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that --target stands for."""
    if not task.targets:
        if given.get("target"):
            raise RainError(f"--target is {given['target']!r}, but {task.name} has only one goal; leave it out")
        return {}
    target = given.get("target") or task.targets[0]
    if target not in task.targets:
        raise RainError(f"--target is {target!r}; it must be one of {', '.join(task.targets)}")
    return {"target": target, "invert": target != task.targets[0]}


def template_path(task: Task, templates: str) -> Path:
    """Return the self-evaluation template: the user's file, one in the user's folder, or the task's.

    Raises:
        RainError: there is no such file.
    """
    given = Path(templates)
    inside = given / Path(task.template).name
    for path in (given, inside, task.path(templates)):
        if path.is_file():
            return path
    raise RainError(f"{flag('templates')} is {given}, which is neither a template file nor a folder with {inside.name}")
