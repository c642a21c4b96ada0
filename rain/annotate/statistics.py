"""Agreement and strength with bootstrap intervals; krippendorff and scikit-learn compute them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import combinations
from math import inf, isnan, nan
from typing import Any

import numpy as np
import numpy.typing as npt

from rain.core.errors import RainError
from rain.stats import Interval

DRAWS = 1000
"""Of a bootstrap."""

Counts = npt.NDArray[np.float64]


def need_libraries() -> None:
    """Raise a RainError if a library is missing."""
    if missing := [name for name in ("krippendorff", "sklearn") if find_spec(name) is None]:
        raise RainError(f"rain annotate score needs {', '.join(missing)}; install: pip install 'rain[annotate]'")


def bootstrap(value: Callable[[npt.NDArray[np.intp]], Any], groups: Sequence[object], draws: int = DRAWS) -> Any:
    """Return the 95 % percentile interval of what `value` says about rows, as Interval(low, high) of its shape.

    Args:
        value: of the numbers of some rows; NaN where it is not defined, which is left out.
        groups: what each row belongs to, such as its prompt: whole groups are drawn, with replacement.
        draws: number of resamples.
    """
    _, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    rng = np.random.default_rng(0)
    found = [
        value(np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]))
        for _ in range(draws)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN: the interval is NaN, too
        return Interval(*np.nanpercentile(np.asarray(found, float), [2.5, 97.5], axis=0))


def cohen(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's kappa of two raters of the same items; NaN where both always said the same one thing, or nothing.

    Source: Cohen 1960.
    """
    from sklearn.metrics import cohen_kappa_score

    if len({*first, *second}) < 2:
        return nan
    return float(cohen_kappa_score(np.asarray(first), np.asarray(second)))


def alpha(counts: Counts) -> float:
    """Return Krippendorff's alpha for nominal data; NaN where everybody always said the same one thing.

    Args:
        counts: how many raters gave each verdict, shape (items, verdicts). Items with one rating do not count.
    """
    import krippendorff

    paired = counts[counts.sum(axis=1) > 1]
    if (paired.sum(axis=0) > 0).sum() < 2:
        return nan
    return float(krippendorff.alpha(value_counts=paired, level_of_measurement="nominal"))


def bradley_terry(wins: Counts) -> Counts:
    """Return the strength of each of k methods in log-odds, with mean 0: P(i beats j) = 1 / (1 + exp(s_j - s_i)).

    Half a win for either side is added to every pair that was compared, so that a method which always wins has a finite
    strength. Source: Bradley and Terry 1952; fitted as a logistic regression.

    Args:
        wins: number of wins of the row over the column, a tie being half a win for each; shape (k, k).
    """
    from sklearn.linear_model import LogisticRegression

    rows, labels, weights = [], [], []
    for i, j in combinations(range(len(wins)), 2):
        if wins[i, j] + wins[j, i]:
            row = np.zeros(len(wins))
            row[i], row[j] = 1, -1
            rows += [row, row]
            labels += [1, 0]
            weights += [wins[i, j] + 0.5, wins[j, i] + 0.5]
    if not rows:
        return np.full(len(wins), nan)
    model = LogisticRegression(C=inf, fit_intercept=False).fit(np.array(rows), labels, sample_weight=weights)
    return np.asarray(model.coef_[0] - model.coef_[0].mean())


def known(value: float) -> float | None:
    """Return a number, None for NaN, which JSON cannot express."""
    return None if isnan(value) else float(value)
