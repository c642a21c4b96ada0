"""Evaluators by their specification: ``labels``, ``readout:NAME|FILE``, ``python:PACKAGE.MODULE:FUNCTION``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from rain.core.errors import RainError
from rain.evaluators.base import Evaluator, WorstOf
from rain.evaluators.function import FunctionEvaluator
from rain.evaluators.labels import EvaluationConfig, LabelEvaluator, SelfEvalPrompt
from rain.evaluators.readout import ReadOutEvaluator, ReadOutFile, prompt_format
from rain.evaluators.templates import Template
from rain.prompts import PromptFile
from rain.text import TokenizerAdapter

KINDS = "labels, readout:NAME|FILE or python:PACKAGE.MODULE:FUNCTION"

Spec = str | ReadOutFile
"""A specification whose files have been read, so that it can be sent to another machine."""


def parse_spec(text: str, model: str, prompt_file: PromptFile | None) -> Spec:
    """Return a specification with its file read.

    Raises:
        RainError: it is of no known kind, or its read-out is missing or belongs to another model or prompt format.
    """
    kind, _, name = text.partition(":")
    if kind == "readout" and name:
        found = ReadOutFile.load(name, model)
        found.check(model, prompt_format(prompt_file))
        return found
    if text == "labels" or (kind == "python" and name.count(":") == 1):
        return text
    raise RainError(f"--evaluator is {text!r}; it must be {KINDS}")


def describe(spec: Spec) -> str:
    """Return a specification for the records."""
    return spec if isinstance(spec, str) else f"readout:{spec.name} {spec.digest}"


def open_evaluator(
    specs: Sequence[Spec], template: Template, config: EvaluationConfig, adapter: TokenizerAdapter, cut: bool
) -> Evaluator:
    """Return what scores texts; of several evaluators the smallest score counts.

    Args:
        specs: from ``parse_spec``.
        template: of the label evaluator.
        config: of the label evaluator; its ``invert`` also turns read-outs around, and without label words its offset
            and scale calibrate the smallest score.
        cut: judge a text only up to its last full stop (label evaluator).
        adapter: of the model that writes.

    Raises:
        RainError: template and model do not fit, or a function cannot be imported.
    """
    read_outs = [spec for spec in specs if isinstance(spec, ReadOutFile)]
    found: list[Evaluator] = [ReadOutEvaluator(read_outs, config.invert)] if read_outs else []
    for spec in specs:
        if spec == "labels":
            found.append(LabelEvaluator(SelfEvalPrompt(template, adapter), config, cut))
        elif isinstance(spec, str):
            found.append(FunctionEvaluator(_one_text(import_function(spec.partition(":")[2]))))
    calibration = (0.0, 1.0) if "labels" in specs else (config.offset, config.scale)
    return found[0] if len(found) == 1 and calibration == (0, 1) else WorstOf(found, *calibration)


def import_function(name: str) -> Callable[[str, list[str], dict[str, Any]], Sequence[float]]:
    """Return ``PACKAGE.MODULE:FUNCTION``.

    Raises:
        RainError: it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        function: Callable[[str, list[str], dict[str, Any]], Sequence[float]] = getattr(
            importlib.import_module(module), attribute
        )
        return function
    except (ImportError, AttributeError) as error:
        raise RainError(f"the evaluator python:{name} cannot be imported: {error}") from error


def _one_text(function: Callable[..., Sequence[float]]) -> Callable[[str, str], float]:
    """Adapt ``(prompt, continuations, params) -> scores``, the contract of DeAL and AISteer360, to one text a call."""

    def score(prompt: str, text: str) -> float:
        scores = list(function(prompt, [text], {}))
        if len(scores) != 1:
            raise RainError(f"the evaluator returned {len(scores)} scores for one text")
        return scores[0]

    return score
