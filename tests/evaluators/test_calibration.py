"""Calibration, by hand arithmetic on texts that lie symmetrically."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rain.evaluators.calibration import RIDGE, fit, held_out


def test_the_slope_balances_the_penalty_and_both_texts() -> None:
    offset, scale = fit([-1.0, 1.0], [False, True])
    slope = 2 * scale
    assert offset == pytest.approx(0, abs=1e-9)
    assert RIDGE * slope == pytest.approx(2 / (1 + math.exp(slope))), "the derivative of the penalised loss is 0"


def test_a_shift_moves_the_offset_and_a_stretch_divides_the_scale() -> None:
    odds, labels = [-2.0, -1.0, 0.5, 1.0, 3.0], [False, False, True, False, True]
    offset, scale = fit(odds, labels)
    moved = fit([2 * x + 3 for x in odds], labels)
    assert moved.offset == pytest.approx(2 * offset + 3)
    assert moved.scale == pytest.approx(scale / 2)


def test_the_classes_weigh_the_same_however_many_texts_they_have() -> None:
    assert fit([-1.0, 1.0, 1.0, 1.0], [False, True, True, True]).offset == pytest.approx(0, abs=1e-6)


def test_texts_ranked_the_wrong_way_round_give_a_flat_score_never_a_reversed_one() -> None:
    scale = fit([-1.0, -1.0, 1.0, 1.0], [True, True, False, False]).scale
    assert 0 < scale < 0.01


def test_one_text_far_off_does_not_move_the_offset_without_bounds() -> None:
    odds = [*np.random.default_rng(0).normal(size=60), 50.0]
    offset, _ = fit(odds, [*[i % 2 == 0 for i in range(60)], False])
    assert abs(offset) < 60


def test_equal_log_odds_are_no_division_by_zero() -> None:
    assert math.isfinite(fit([2.0, 2.0, 2.0], [True, False, False]).offset)


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_a_class_without_texts_cannot_be_calibrated(labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit([0.0, 1.0], labels)


def test_every_text_is_calibrated_by_the_other_prompts() -> None:
    odds, labels = [9.0, 7.0, 1.0, -1.0, 1.5, -1.5], [True, False] * 3
    groups = ["a", "a", "b", "b", "c", "c"]
    found = held_out(odds, labels, groups)
    assert found[0] == found[1] == fit(odds[2:], labels[2:])
    assert found[2] == found[3] == fit(odds[:2] + odds[4:], labels[:2] + labels[4:])


def test_prompts_of_one_label_each_are_dealt_so_that_every_fold_has_both() -> None:
    odds, labels = [1.0, 2.0, -1.0, -2.0], [True, True, False, False]
    found = held_out(odds, labels, list("abcd"))
    assert [x > each.offset for x, each in zip(odds, found, strict=True)] == labels
    with pytest.raises(ValueError, match="both classes"):
        held_out([1.0, -1.0, -2.0], [True, False, False], list("abb"))
