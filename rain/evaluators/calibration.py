"""How well self-evaluation tells good texts from bad ones, and the offset and scale that make the most of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rain.core.errors import RainError

FOLDS = 5
RIDGE = 0.1
MAX_SLOPE = 20.0
STEPS = 100


class Calibration(NamedTuple):
    """Parameters of ``EvaluationConfig``: log-odds of indecision (nats), and the soft score's slope per nat."""

    offset: float
    scale: float


def fit(log_odds: Sequence[float], labels: Sequence[bool]) -> Calibration:
    """Fit p(good) = sigmoid(2 scale (log_odds - offset)) by penalised logistic regression, classes weighted equally.

    Since tanh(x) = 2 sigmoid(2 x) - 1, the soft score is then 2 p(good) - 1. The slope is kept positive: a model that
    ranks texts the wrong way round gets a flat score, never a reversed one.

    Raises:
        ValueError: a class is empty.
    """
    x, y = np.array(log_odds, float), np.array(labels, float)
    good, total = y.sum(), len(y)
    if not 0 < good < total:
        raise ValueError("a calibration needs texts of both classes")
    mean, spread = x.mean(), x.std() or 1.0
    weights = total / np.where(y == 1, 2 * good, 2 * (total - good))
    design = np.stack([(x - mean) / spread, np.ones(total)], axis=1)  # [texts, 2]: for slope and intercept
    theta = np.array([1.0, 0.0])
    for _ in range(STEPS):  # Newton's method
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (weights * (p - y)) + [RIDGE * theta[0], 0]
        curvature = design.T @ (design * (weights * p * (1 - p))[:, None]) + np.diag([RIDGE, 1e-9])
        step = np.linalg.solve(curvature, gradient)
        if not 1e-2 <= theta[0] - step[0] <= MAX_SLOPE:  # at a bound of the slope, the intercept goes its own way
            step[1] = gradient[1] / curvature[1, 1]
        theta = np.clip(theta - step, [1e-2, -MAX_SLOPE], MAX_SLOPE)
    slope, intercept = theta
    return Calibration(offset=float(mean - intercept / slope * spread), scale=float(slope / (2 * spread)))


def held_out(log_odds: Sequence[float], labels: Sequence[bool], groups: Sequence[str]) -> list[Calibration]:
    """Return for each text a calibration that was learnt from the other folds.

    All texts of a group, such as a prompt, are in one fold; groups with equal shares of good texts are dealt in turn.

    Raises:
        ValueError: the texts of a class belong to fewer than two groups.
    """
    x, y = np.array(log_odds, float), np.array(labels, bool)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    shares = np.bincount(group, y) / np.bincount(group)
    dealt = np.argsort(np.argsort(shares, kind="stable"), kind="stable") % min(FOLDS, len(names))
    fold = dealt[group]
    learnt = [fit(x[fold != i].tolist(), y[fold != i].tolist()) for i in range(max(fold) + 1)]
    return [learnt[i] for i in fold]


def calibrated_by(path: Path) -> list[str]:
    """Return the evaluators (``describe``) that a calibration belongs to; label words if it does not say."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["evaluators"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ["labels"]  # read_calibration says what is wrong


def read_calibration(path: Path, evaluators: Sequence[str] | None = None) -> dict[str, float]:
    """Read offset and scale from a file that ``rain preflight`` wrote.

    Args:
        path: of the file.
        evaluators: what is to be calibrated (``describe``); None: whatever the file belongs to.

    Raises:
        RainError: the file is missing, is not JSON, lacks a number or belongs to other evaluators; the message names
            file and field.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        learnt, wanted = data.get("evaluators", ["labels"]), list(evaluators or ())
        if "labels" in learnt and learnt != ["labels"]:
            reason = "has label words among several evaluators; it is for label words alone"
            raise RainError(f"the calibration {path} {reason}: learn it anew with --evaluator labels alone")
        if evaluators and learnt != (["labels"] if "labels" in wanted else wanted):
            raise RainError(f"the calibration {path} is one of {' and '.join(learnt)}, not of {' and '.join(wanted)}")
        return {name: float(data[name]) for name in ("offset", "scale")}
    except OSError as error:
        raise RainError(f"cannot read the calibration {path}: {error.strerror}") from error
    except KeyError as error:
        raise RainError(f"the calibration {path} lacks the field {error}") from error
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise RainError(f"the calibration {path} is not a JSON object with the numbers offset and scale") from error
