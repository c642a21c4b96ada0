"""Evaluators by their specification, imported when they are needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from rain.core.errors import RainError
from rain.evaluators.base import Evaluator, WorstOf
from rain.evaluators.labels import EvaluationConfig, LabelEvaluator, SelfEvalPrompt
from rain.evaluators.model import ModelSpec, open_model
from rain.evaluators.readout import ReadOutEvaluator
from rain.evaluators.readout_file import ReadOutFile
from rain.evaluators.templates import Template
from rain.text import TokenizerAdapter

KINDS = (
    "labels, readout:NAME|FILE, model:NAME, reward:NAME[,label=LABEL], python:PACKAGE.MODULE:FUNCTION, fluency, "
    "random[:SEED], or, for measuring only, oracle:JUDGE"
)


class Kind(NamedTuple):
    """An evaluator that needs nothing but what comes after the colon.

    Attributes:
        module: of this package, without its name.
        opener: the class in it.
        name: what comes after the colon, as a regular expression.
        one_way: whether it says itself what is good, so that no ``--target`` can turn it around.
    """

    module: str
    opener: str
    name: str
    one_way: bool = False


ALONE = {
    "python": Kind("function", "PythonEvaluator", "[^:]+:[^:]+", one_way=True),
    "reward": Kind("reward", "RewardEvaluator", ".+", one_way=True),
    "fluency": Kind("fluency", "FluencyEvaluator", ""),
    "random": Kind("chance", "RandomEvaluator", ".*"),
}
"""By what comes before the colon."""

Spec = str | ReadOutFile | ModelSpec
"""A specification whose files have been read, so that it can be sent to another machine."""


def parse_spec(text: str, model: str, template: Template, base_url: str = "") -> Spec:
    """Return a specification with its file read.

    Args:
        text: one of KINDS.
        model: that writes.
        template: what another model (``model:``) is asked.
        base_url: of the server that runs it; empty: this process does.

    Raises:
        RainError: it is of no known kind, or its read-out is missing.
    """
    kind, colon, name = text.partition(":")
    if kind == "readout" and name:
        return ReadOutFile.load(name, model)
    if kind == "model" and name:
        return ModelSpec(name, template, base_url)
    if text == "labels" or (kind == "oracle" and name):
        return text
    if kind in ALONE and bool(colon) == bool(name) and re.fullmatch(ALONE[kind].name, name):
        return text
    raise RainError(f"--evaluator is {text!r}; it must be {KINDS}")


def is_one_way(spec: Spec) -> bool:
    """Tell whether an evaluator says itself what is good, so that no ``--target`` can turn it around."""
    kind = spec.partition(":")[0] if isinstance(spec, str) else ""
    return kind in ALONE and ALONE[kind].one_way


def describe(spec: Spec) -> str:
    """Return a specification for the records."""
    return f"readout:{spec.name} {spec.digest}" if isinstance(spec, ReadOutFile) else str(spec)


def by_name(specs: Sequence[Spec], opened: Evaluator) -> dict[str, Evaluator]:
    """Return the evaluators that ``open_evaluator`` opened by their specifications, and all of them, joined by +.

    Read-outs share an evaluator; where there are several, there is the whole only.
    """
    order = sorted(specs, key=lambda spec: not isinstance(spec, ReadOutFile))  # that in which they were opened
    names = [describe(spec).partition(" ")[0] for spec in order]
    parts = opened.evaluators if isinstance(opened, WorstOf) else []
    alone = dict(zip(names, parts, strict=True)) if len(parts) == len(names) else {}
    return {**alone, "+".join(names): opened}


def open_evaluator(
    specs: Sequence[Spec],
    template: Template,
    config: EvaluationConfig,
    adapter: TokenizerAdapter,
    cut: bool,
    open_oracle: Callable[[str, bool], Evaluator],
) -> Evaluator:
    """Return what scores texts; of several evaluators the smallest score counts.

    Args:
        specs: from ``parse_spec``.
        template: of the label evaluator.
        config: of the label evaluator; its ``invert`` also turns ``readout:``, ``model:`` and ``oracle:`` around, and
            without label words its offset and scale calibrate the smallest score.
        cut: judge a text only up to its last full stop (``labels`` and ``model:``).
        adapter: of the model that writes.
        open_oracle: makes an evaluator of a judge's name and ``invert``; judges are no business of this package.

    Raises:
        RainError: template and model do not fit, or an evaluator cannot be loaded.
    """
    read_outs = [spec for spec in specs if isinstance(spec, ReadOutFile)]
    found: list[Evaluator] = [ReadOutEvaluator(read_outs, config.invert)] if read_outs else []
    for spec in specs:
        if isinstance(spec, ModelSpec):
            found.append(open_model(spec, config.invert, cut))
        elif spec == "labels":
            found.append(LabelEvaluator(SelfEvalPrompt(template, adapter), config, cut))
        elif isinstance(spec, str) and spec.startswith("oracle:"):
            found.append(open_oracle(spec.removeprefix("oracle:"), config.invert))
        elif isinstance(spec, str):
            kind, _, name = spec.partition(":")
            open_named = getattr(import_module(f"rain.evaluators.{ALONE[kind].module}"), ALONE[kind].opener)
            found.append(open_named(name) if name else open_named())
    calibration = (0.0, 1.0) if "labels" in specs else (config.offset, config.scale)
    return found[0] if len(found) == 1 and calibration == (0, 1) else WorstOf(found, *calibration)
