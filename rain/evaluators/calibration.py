"""How well self-evaluation tells good texts from bad ones, and the offset and scale that make the most of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

FOLDS = 5
RIDGE = 0.1
MAX_SLOPE = 20.0


class Calibration(NamedTuple):
    """Parameters of ``EvaluationConfig``: log-odds of indecision (nats), and the soft score's slope per nat."""

    offset: float
    scale: float


def fit(log_odds: Sequence[float], labels: Sequence[bool], steps: int = 100) -> Calibration:
    """Fit p(good) = sigmoid(2 scale (log_odds - offset)) by penalised logistic regression, classes weighted equally.

    Since tanh(x) = 2 sigmoid(2 x) - 1, the soft score is then 2 p(good) - 1. The slope is kept positive: a model that
    ranks texts the wrong way round gets a flat score, never a reversed one.

    Raises:
        ValueError: a class is empty.
    """
    good, total = sum(labels), len(labels)
    if not 0 < good < total:
        raise ValueError("a calibration needs texts of both classes")
    mean = sum(log_odds) / total
    spread = math.sqrt(sum((x - mean) ** 2 for x in log_odds) / total) or 1.0
    points = [
        ((x - mean) / spread, y, total / (2 * (good if y else total - good)))
        for x, y in zip(log_odds, labels, strict=True)
    ]
    slope, intercept = 1.0, 0.0
    for _ in range(steps):
        gradient_s, gradient_i, curve_ss, curve_si, curve_ii = RIDGE * slope, 0.0, RIDGE, 0.0, 1e-9
        for x, y, weight in points:
            p = 1 / (1 + math.exp(-max(-30.0, min(30.0, slope * x + intercept))))
            gradient_s += weight * (p - y) * x
            gradient_i += weight * (p - y)
            curve_ss += weight * p * (1 - p) * x * x
            curve_si += weight * p * (1 - p) * x
            curve_ii += weight * p * (1 - p)
        determinant = curve_ss * curve_ii - curve_si**2
        slope -= (curve_ii * gradient_s - curve_si * gradient_i) / determinant
        intercept -= (curve_ss * gradient_i - curve_si * gradient_s) / determinant
        slope = min(max(slope, 1e-2), MAX_SLOPE)
        intercept = min(max(intercept, -MAX_SLOPE), MAX_SLOPE)
    return Calibration(offset=mean - intercept / slope * spread, scale=slope / (2 * spread))


def held_out(log_odds: Sequence[float], labels: Sequence[bool], folds: int = FOLDS) -> list[bool]:
    """Return for each text whether a calibration learnt from the other folds classifies it rightly.

    Texts of each class are dealt to the folds in turn, so that all folds hold both.
    """
    dealt, seen = [], {True: 0, False: 0}
    for label in labels:
        dealt.append(seen[label] % folds)
        seen[label] += 1
    right = [False] * len(labels)
    for fold in range(folds):
        inside = [i for i, place in enumerate(dealt) if place != fold]
        learnt = fit([log_odds[i] for i in inside], [labels[i] for i in inside])
        for i, place in enumerate(dealt):
            if place == fold:
                right[i] = (log_odds[i] > learnt.offset) == labels[i]
    return right
