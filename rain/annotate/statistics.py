"""Agreement and strength with bootstrap intervals; krippendorff and scikit-learn compute them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 1000
"""Of a bootstrap."""

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


def with_interval(value: Callable[[Rows], Any], groups: Sequence[str]) -> list[dict[str, float | None]]:
    """Return {value, low, high} of each number that `value` says about rows, with 95 % bootstrap intervals.

    Args:
        value: of the numbers of some rows; NaN where it is not defined: such resamples are left out.
        groups: what each row belongs to, such as its prompt: whole groups are drawn, with replacement.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    draws = np.random.default_rng(0).integers(len(members), size=(DRAWS, len(members)))
    found = [np.ravel(value(np.concatenate([members[i] for i in drawn]))) for drawn in draws]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all of them NaN: so is the interval
        low, high = np.nanpercentile(found, [2.5, 97.5], axis=0)
    rows = zip(np.ravel(value(np.arange(len(groups)))), low, high, strict=True)
    return [{name: known(x) for name, x in zip(("value", "low", "high"), row, strict=True)} for row in rows]


def known(value: float) -> float | None:
    """Return a number, None for NaN, which JSON cannot express."""
    return float(value) if isfinite(value) else None


def cohen(pairs: Any) -> float:
    """Return Cohen's kappa (1960) of pairs of verdicts; NaN if there are none, or all of them are the same verdict."""
    from sklearn.metrics import cohen_kappa_score

    pairs = np.asarray(pairs)
    return nan if len(np.unique(pairs)) < 2 else float(cohen_kappa_score(pairs[:, 0], pairs[:, 1]))


def alpha(counts: Floats) -> float:
    """Return Krippendorff's alpha for nominal data; NaN if there is only one verdict.

    Args:
        counts: how many raters gave each verdict, two at least for each item; shape (items, verdicts).
    """
    import krippendorff

    if np.count_nonzero(counts.sum(axis=0)) < 2:
        return nan
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def bradley_terry(wins: Floats) -> Floats:
    """Return the strength of each of k methods in log-odds, with mean 0: P(i beats j) = 1 / (1 + exp(s_j - s_i)).

    Half a win for either side is added to every pair that was compared, so that a method which always wins has a finite
    strength; NaN where comparisons do not connect all methods. Source: Bradley and Terry 1952; a logistic regression.

    Args:
        wins: number of wins of the row over the column, a tie being half a win for each; shape (k, k).
    """
    from sklearn.linear_model import LogisticRegression

    own, compared = np.eye(len(wins)), wins + wins.T
    reached = np.linalg.matrix_power(own + compared > 0, len(wins))
    if not reached.all():
        return np.full(len(wins), nan)
    i, j = np.nonzero(np.triu(compared))
    rows, labels = np.tile(own[i] - own[j], (2, 1)), np.repeat([1, 0], len(i))
    weights = np.concatenate([wins[i, j], wins[j, i]]) + 0.5
    model = LogisticRegression(C=inf, fit_intercept=False).fit(rows, labels, sample_weight=weights)
    return np.asarray(model.coef_[0] - model.coef_[0].mean())
