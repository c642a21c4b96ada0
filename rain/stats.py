"""Small statistics of counts: intervals, the paired test, agreement, ranking and ratios."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: two-sided 95 % intervals."""


class Interval(NamedTuple):
    """A two-sided interval, low <= high."""

    low: float
    high: float


def wilson(successes: int, total: int) -> Interval:
    """Return Wilson's score interval of a proportion, both ends in [0, 1]; (0, 1) when total is 0.

    Source: Wilson 1927, JASA 22. Raises ValueError unless 0 <= successes <= total.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes must lie in 0..total, got {successes} of {total}")
    if total == 0:
        return Interval(0.0, 1.0)
    rate, z = successes / total, Z95
    scale = 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    half = z / scale * sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p value, in (0, 1], of McNemar's test.

    first_only and second_only count the pairs of which only one side succeeded; under the hypothesis of no difference
    each such pair falls to either side with probability one half. 1 when there are none. Source: McNemar 1947.
    """
    if first_only < 0 or second_only < 0:
        raise ValueError(f"counts must not be negative, got {first_only} and {second_only}")
    total = first_only + second_only
    tail = ways = 1  # of choosing k pairs
    for k in range(min(first_only, second_only)):
        ways = ways * (total - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << total))


def paired_difference(both: int, first_only: int, second_only: int, neither: int) -> Interval:
    """Return the 95 % interval of the difference of two paired proportions (first - second), in [-1, 1].

    The counts are of pairs in which both sides succeeded, only one, or neither; (-1, 1) when there are none. Source:
    Newcombe 1998, Statistics in Medicine 17, method 10: Wilson's intervals, combined with the correlation of the pairs.
    """
    total = both + first_only + second_only + neither
    if total == 0:
        return Interval(-1.0, 1.0)
    first, second = both + first_only, both + second_only
    p, q = first / total, second / total
    margins = first * (total - first) * second * (total - second)
    product = both * neither - first_only * second_only
    phi = (max(product - total / 2, 0) if product > 0 else product) / sqrt(margins) if margins else 0.0
    (p_low, p_high), (q_low, q_high) = wilson(first, total), wilson(second, total)

    def half(p_side: float, q_side: float) -> float:
        return sqrt(max(0.0, p_side**2 - 2 * phi * p_side * q_side + q_side**2))

    return Interval(p - q - half(p - p_low, q_high - q), p - q + half(p_high - p, q - q_low))


def kappa(both: int, first_only: int, second_only: int, neither: int) -> float | None:
    """Return Cohen's kappa of two raters, in [-1, 1]; None where it is undefined (both always said the same one thing).

    kappa = (observed agreement - chance agreement) / (1 - chance agreement). Source: Cohen 1960. The arguments count
    the items to which both raters, one of them, or neither said yes.
    """
    total = both + first_only + second_only + neither
    observed, p, q = (both + neither) / total, (both + first_only) / total, (both + second_only) / total
    chance = p * q + (1 - p) * (1 - q)
    return None if chance == 1.0 else (observed - chance) / (1 - chance)


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the probability that a positive outscores a negative, ties counted half; in [0, 1].

    The area under the ROC curve by ranks (Mann-Whitney), O(n log n). Raises ValueError when a class is empty.
    """
    if not positives or not negatives:
        raise ValueError("the area under the curve needs scores of both classes")
    ordered = sorted(negatives)
    wins = sum(bisect_left(ordered, score) + bisect_right(ordered, score) for score in positives) / 2
    return wins / (len(positives) * len(negatives))


def auc_interval(
    scores: Sequence[float], labels: Sequence[bool], groups: Sequence[str], draws: int = 1000
) -> Interval:
    """Return the 95 % bootstrap interval of ``auc``; whole groups are drawn, since texts of one prompt are alike.

    Args:
        scores: numbers, larger for good texts; ties count half.
        labels: whether each text is good.
        groups: what each text belongs to, such as its prompt.
        draws: number of resamples; those without both labels are left out. (0, 1) where none is left.
    """
    values, good = np.asarray(scores, float), np.asarray(labels, bool)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    count = len(names)
    wins, goods, bads = np.zeros((count, count)), *(np.bincount(group[x], minlength=count) for x in (good, ~good))
    for value, place in zip(values[good], group[good], strict=True):  # wins of each group's good texts over each group
        beaten = (np.sign(value - values[~good]) + 1) / 2
        wins[place] += np.bincount(group[~good], beaten, count)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    pairs = (drawn @ goods) * (drawn @ bads)
    areas = ((drawn @ wins) * drawn).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    return Interval(*map(float, np.percentile(areas, [2.5, 97.5]))) if len(areas) else Interval(0.0, 1.0)


class Ratio(NamedTuple):
    """A ratio of two sums with its 95 % interval; low and high are None if fewer than two pairs are known."""

    value: float
    low: float | None
    high: float | None


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio | None:
    """Return sum(numerators) / sum(denominators) of paired measurements; None if there is nothing to divide by.

    The interval is the linearised (delta-method) one of the ratio estimator; Cochran, Sampling Techniques, section 6.4.
    It does not reach below 0, since measurements are not negative.
    """
    count, below = len(numerators), sum(denominators)
    if count != len(denominators):
        raise ValueError(f"need pairs, got {count} and {len(denominators)} numbers")
    if below <= 0:
        return None
    value = sum(numerators) / below
    if count < 2:
        return Ratio(value, None, None)
    residuals = sum((y - value * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    half = Z95 * sqrt(residuals / (count * (count - 1))) / (below / count)
    return Ratio(value, max(0.0, value - half), value + half)
