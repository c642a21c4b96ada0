"""The statistics against hand arithmetic."""

import itertools
import math

import numpy as np
import pytest

from rain.stats import auc, auc_interval, kappa, mcnemar, paired_difference, ratio, wilson


def test_wilsons_interval_which_says_nothing_about_nothing():
    # z^2 = 3.841459; centre (0.5 + 3.841459/8) / (1 + 3.841459/4) = 0.5; half-width
    # 1.959964/1.960365 * sqrt(0.25/4 + 3.841459/64) = 0.999796 * sqrt(0.1225228) = 0.349961
    assert wilson(2, 4) == pytest.approx((0.150039, 0.849961), abs=1e-5)
    # at rate 0 the upper end is z^2 / (n + z^2) = 3.841459 / 13.841459
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775328, abs=1e-6))
    assert wilson(10, 10) == pytest.approx((1 - 0.2775328, 1.0), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="0..total"):
        wilson(3, 2)


def test_mcnemar_is_the_two_sided_binomial_tail():
    # 1 against 5: 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64
    assert mcnemar(1, 5) == mcnemar(5, 1) == 14 / 64
    assert mcnemar(0, 8) == 2 / 256
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0
    for first, second in itertools.product(range(12), repeat=2):
        tail = sum(math.comb(first + second, k) for k in range(min(first, second) + 1))
        assert mcnemar(first, second) == min(1.0, 2 * tail / 2 ** (first + second))


def test_mcnemar_stays_exact_for_large_counts():
    assert 0 < mcnemar(100, 1500) < 1e-200
    assert mcnemar(10_000, 10_400) == pytest.approx(math.erfc(399 / math.sqrt(2 * 20_400)), rel=1e-3)
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


def test_kappa_corrects_agreement_for_chance_and_is_undefined_for_constants():
    # 20 + 15 of 50 agree: 0.7; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa (0.7 - 0.5) / 0.5 = 0.4
    assert kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert kappa(0, 1, 1, 0) == pytest.approx(-1.0)
    assert kappa(2, 0, 0, 0) is None


def test_auc_counts_wins_and_half_the_ties():
    # pairs (3,1) (3,2) (2,1) win, (2,2) ties: 3.5 of 4
    assert auc([3.0, 2.0], [1.0, 2.0]) == 3.5 / 4
    assert auc([1.0], [2.0]) == 0.0
    assert auc([5.0, 5.0], [5.0]) == 0.5
    with pytest.raises(ValueError, match="both classes"):
        auc([], [1.0])


def test_the_interval_of_an_auc_is_that_of_drawn_groups_with_ties_counted_half():
    scores, labels, groups = [2.0, 1.0, 3.0, 1.0, 0.0, 2.0], [True, False, True, True, False, False], list("aabbcc")
    random, areas = np.random.default_rng(0), []
    for counts in random.multinomial(3, [1 / 3] * 3, size=200):
        drawn = [i for i in range(6) for _ in range(counts["abc".index(groups[i])])]
        good, bad = ([scores[i] for i in drawn if labels[i] is side] for side in (True, False))
        if good and bad:
            areas.append(auc(good, bad))
    assert auc_interval(scores, labels, groups, 200) == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])))


def test_the_interval_of_an_auc_is_wider_when_texts_of_a_prompt_are_alike():
    random = np.random.default_rng(1)
    labels = random.random(200) < 0.5
    scores = labels + random.normal(size=200)
    alone = auc_interval(scores, labels, [str(i) for i in range(200)])
    alike = auc_interval(np.repeat(scores[:40], 5), np.repeat(labels[:40], 5), [str(i // 5) for i in range(200)])
    assert alike.high - alike.low > 1.5 * (alone.high - alone.low)


def test_ratio_is_of_the_sums_with_a_linearised_interval():
    # y = (2, 6), x = (1, 1): ratio 4, residuals -2 and 2, s.e. sqrt(8 / (2 * 1)) / 1 = 2
    found = ratio([2.0, 6.0], [1.0, 1.0])
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == 4.0
    assert found.high - 4.0 == 4.0 - found.low == pytest.approx(1.959964 * 2.0, abs=1e-5)


def test_ratio_of_proportional_numbers_has_no_width_and_of_one_pair_no_interval():
    assert ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, 2.0, 2.0)
    assert ratio([3.0], [2.0]) == (1.5, None, None)
    assert ratio([1.0], [0.0]) is None
    assert math.isfinite(wilson(1, 10**9).high)


def test_the_interval_of_a_paired_difference():
    # 6 both, 3 and 1 only one, 10 neither: p = 0.45, q = 0.35; Wilson (0.258198, 0.657914) and (0.181192, 0.567146);
    # phi = (6 * 10 - 3 * 1 - 20 / 2) / sqrt(9 * 11 * 7 * 13) = 0.49518
    # below: sqrt(0.191802^2 - 2 phi 0.191802 0.217146 + 0.217146^2) = 0.20662; above: 0.19226
    assert paired_difference(6, 3, 1, 10) == pytest.approx((-0.10662, 0.29226), abs=2e-5)
    low, high = paired_difference(6, 1, 3, 10)
    assert (low, high) == pytest.approx((-0.29226, 0.10662), abs=2e-5)
    # a side that always succeeds: no correlation; 2/3 - sqrt(0.56150^2 + 0.45897^2)
    assert paired_difference(1, 2, 0, 0)[0] == pytest.approx(-0.0586, abs=1e-4)
    assert paired_difference(0, 0, 0, 0) == (-1.0, 1.0)
