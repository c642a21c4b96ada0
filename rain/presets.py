"""Which of an embedded model's settings suit what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rain.configs import SourcesConfig
from rain.engines.registry import READ_OUT_ENGINES, ModelConfig
from rain.evaluators.calibration import calibrated_by
from rain.flags import build
from rain.tasks.task import Task

LABEL_SETTINGS = ("templates", "votes", "calibration")
"""Settings of the evaluator ``labels``; a calibration may be another evaluator's."""


def choose_preset(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an embedded model's preset, without those that were given or that do not suit them.

    A preset with a read-out has settings of label words too. They hold where label words are asked for, by name or by
    one of their settings, and where the engine cannot read hidden states; otherwise the read-out holds, and its format.
    """
    model = build(ModelConfig, given)
    preset = {} if given.get("preset") == "none" else dict(task.presets.get(model.name, {}))
    asked = build(SourcesConfig, preset, given).evaluator
    labels = "labels" in asked or "templates" in given or "votes" in given or _calibrates_labels(task, given)
    unused: set[str] = set()
    if "evaluator" in preset and (labels or model.engine not in READ_OUT_ENGINES):
        unused |= {"evaluator", "chat_template"}
    elif "evaluator" in preset and "evaluator" not in given:
        unused |= set(LABEL_SETTINGS)
    if "templates" in given or ("labels" not in asked and "evaluator" in given):
        unused.add("calibration")  # it was learnt with the preset's template and label words
    return {name: value for name, value in preset.items() if name not in given and name not in unused}


def _calibrates_labels(task: Task, given: Mapping[str, Any]) -> bool:
    """Tell whether a calibration was given that is one of label words, or none where the preset has one."""
    path = Path(given.get("calibration") or ".")
    return "calibration" in given and calibrated_by(path if path.exists() else task.path(str(path))) == ["labels"]
