"""How well self-evaluation tells good texts from bad ones, and the offset and scale that make the most of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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
    x, y = np.array(log_odds, float), np.array(labels, float)
    good, total = y.sum(), len(y)
    if not 0 < good < total:
        raise ValueError("a calibration needs texts of both classes")
    mean, spread = x.mean(), x.std() or 1.0
    weights = total / np.where(y == 1, 2 * good, 2 * (total - good))
    design = np.stack([(x - mean) / spread, np.ones(total)], axis=1)  # [texts, 2]: for slope and intercept
    theta = np.array([1.0, 0.0])
    for _ in range(steps):  # Newton's method
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (weights * (p - y)) + [RIDGE * theta[0], 0]
        curvature = design.T @ (design * (weights * p * (1 - p))[:, None]) + np.diag([RIDGE, 1e-9])
        theta = np.clip(theta - np.linalg.solve(curvature, gradient), [1e-2, -MAX_SLOPE], MAX_SLOPE)
    slope, intercept = theta
    return Calibration(offset=float(mean - intercept / slope * spread), scale=float(slope / (2 * spread)))


def held_out(log_odds: Sequence[float], labels: Sequence[bool], folds: int = FOLDS) -> list[bool]:
    """Return for each text whether a calibration learnt from the other folds classifies it correctly.

    Texts of each class are dealt to the folds in turn, so that every fold has both.

    Raises:
        ValueError: a class has fewer than two texts.
    """
    x, y = np.array(log_odds, float), np.array(labels, bool)
    fold, right = np.zeros(len(y), int), np.zeros(len(y), bool)
    for label in (True, False):
        fold[y == label] = np.arange((y == label).sum()) % folds
    for inside in (fold != i for i in range(folds)):
        learnt = fit(x[inside].tolist(), y[inside].tolist())
        right[~inside] = (x[~inside] > learnt.offset) == y[~inside]
    return [bool(each) for each in right]
