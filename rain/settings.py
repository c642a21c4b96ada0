"""From defaults, presets and flags to settings."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rain.configs import AlignerConfig, PromptingConfig, RunConfig, Settings, SourcesConfig
from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.core.fields import flag
from rain.engines.registry import READ_OUT_ENGINES, ModelConfig, PlacementConfig, check_engine
from rain.evaluators.calibration import read_calibration
from rain.evaluators.labels import EvaluationConfig
from rain.evaluators.readout_file import ReadOutFile, prompt_format
from rain.evaluators.registry import Spec, describe, is_one_way, parse_spec
from rain.evaluators.templates import Template, load_prompt
from rain.flags import add_flags, build
from rain.methods.config import MethodConfig
from rain.models.loading import model_files
from rain.presets import choose_preset
from rain.results.inputs import fingerprint
from rain.tasks.task import Task

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

TASK_FILES = ("dataset", "templates", "calibration")
"""Settings that name files of a task's folder."""


def add_setting_flags(parser: argparse.ArgumentParser, without: Collection[type[Any]]) -> None:
    """Add the flags of every class of settings but those that a command has no use for."""
    basic = parser.add_argument_group("what everybody needs")
    for config, title in CONFIGS:
        if config not in without:
            add_flags(parser, config, {}, title, basic)


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings among what a command line has given."""
    known = known_names()
    return {name: value for name, value in vars(args).items() if name in known}


def known_names() -> list[str]:
    """Return the names of all settings."""
    return [field.name for config, _ in CONFIGS for field in dataclasses.fields(config)]


def task_defaults(task: Task) -> dict[str, Any]:
    """Return the fields in which a task differs from the defaults of the settings classes."""
    return {"dataset": task.dataset, "templates": task.template, **dataclasses.asdict(task.config)}


def make_settings(task: Task, given: Mapping[str, Any], *, format_known: bool = True) -> Settings:
    """Combine defaults, the task's, an embedded model's preset and what was given; later ones win.

    Args:
        task: the benchmark.
        given: settings by field name, such as the flags of the command line.
        format_known: whether the prompt format is final; if not, ``check_read_outs`` is left to the caller.

    Raises:
        RainError: a name is unknown, a value is out of range, or a template or calibration cannot be read.
    """
    check_names(given, known_names(), "there is no setting")
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
    for name in ("evaluator_template", "evaluator_base_url"):
        if getattr(sources, name) and not any(spec.startswith("model:") for spec in sources.evaluator):
            raise RainError(f"{flag(name)} is for --evaluator model:NAME; leave it out")
    evaluators = tuple(parse_spec(spec, model.name, asked, server) for spec in sources.evaluator)
    _calibration(task, {"calibration": sources.calibration}, [describe(spec) for spec in evaluators])
    evaluation = build(EvaluationConfig, *layers)
    if evaluation.invert:
        _check_inverted(task, evaluators, sources.calibration, evaluation.offset)
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
    if format_known:
        check_read_outs(aligner)
    placement, run = build(PlacementConfig, *layers), build(RunConfig, *layers)
    check_engine(aligner.model, placement)
    if run.trace and method.method != "rain":
        raise RainError(f"--trace records searches, and --method {method.method} does not search; leave --trace out")
    return Settings(aligner, placement, run, preset, format_known)


def check_read_outs(config: AlignerConfig) -> None:
    """Refuse read-outs that do not belong to the model and its prompt format, or that the engine cannot compute.

    Raises:
        RainError: it says which, and what does not fit.
    """
    model = config.model
    for spec in config.evaluators:
        if isinstance(spec, ReadOutFile):
            if model.engine not in READ_OUT_ENGINES:
                needed = f"--evaluator readout:{spec.name} needs hidden states"
                raise RainError(f"{needed}, which --engine {model.engine} cannot read; use --engine hf")
            spec.check(model.name, prompt_format(config.prompt_file))
            if spec.fingerprint:
                spec.check_weights(fingerprint(model_files(model.modelname, model.engine)))


def _check_inverted(task: Task, evaluators: Sequence[Spec], calibration: str, offset: float) -> None:
    """Refuse what a ``--target`` other than the task's own cannot turn around.

    Raises:
        RainError: it names the setting.
    """
    if calibration and "labels" not in evaluators:
        raise RainError(
            f"--calibration {calibration} was learnt for --target {task.targets[0]}, and only label words can turn it "
            f"around; leave it out"
        )
    if offset and "labels" not in evaluators:
        raise RainError(f"--offset is for --target {task.targets[0]}, and only label words can turn it around; drop it")
    for spec in evaluators:
        if is_one_way(spec):
            raise RainError(f"--evaluator {spec} says itself what is good; leave out --target, which cannot change it")


def check_names(names: Iterable[str], known: Collection[str], refusal: str) -> None:
    """Refuse names that are not known, with a message that begins with ``refusal``.

    Raises:
        RainError: it names the first unknown one, and the known one that resembles it most.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise RainError(f"{refusal} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _in_folder(task: Task, layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's own settings with its files as whole paths, so that the current folder has no say in them."""
    files = {name: str(task.path(layer[name])) for name in TASK_FILES if layer.get(name)}
    return {**layer, **files}


def _calibration(task: Task, layer: Mapping[str, Any], evaluators: Sequence[str] | None = None) -> dict[str, float]:
    """Return what the calibration file of a layer says; a relative path may be one in the task's folder."""
    name = layer.get("calibration")
    if not name:
        return {}
    path = Path(name)
    return read_calibration(task.path(name) if not path.exists() and task.path(name).exists() else path, evaluators)


def _resolve_target(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that --target stands for."""
    if not task.targets:
        if given.get("target"):
            raise RainError(f"--target is {given['target']!r}, but {task.name} has only one goal; leave it out")
        return {}
    if "invert" in given:
        raise RainError(f"--invert is what --target sets; choose --target {' or '.join(task.targets)}")
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
