"""The constants: the paper's defaults, ranges, limits and budgets."""

from __future__ import annotations

import math

import pytest

from rain.core.config import Budget, RainConfig
from rain.core.errors import RainError


def test_the_defaults_are_those_of_the_paper():
    config = RainConfig()
    assert (config.max_simulations, config.min_visits, config.value_threshold) == (50, 6, 0.8)
    assert (config.candidates, config.exploration, config.root_mix) == (10, 2.0, 0.25)
    assert (config.similarity_weight, config.similarity_threshold) == (0.2, 0.95)
    assert [config.token_set_length(step) for step in range(6)] == [1, 2, 4, 10, 10, 10]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (RainConfig, "max_simulations", 0),
        (RainConfig, "value_threshold", 1.1),
        (RainConfig, "candidate_temperature", 0.0),
        (RainConfig, "exploration", math.inf),
        (RainConfig, "exploration", math.nan),
        (RainConfig, "root_mix", -0.1),
        (RainConfig, "max_draws", 8),
        (RainConfig, "token_set_lengths", ()),
        (RainConfig, "token_set_lengths", (2, 4)),
        (RainConfig, "token_set_lengths", (1, 0)),
        (RainConfig, "token_set_lengths", (1, 65)),
        (RainConfig, "maxlen", 0),
        (Budget, "simulations", -1),
        (Budget, "tokens", -1),
        (Budget, "seconds", -0.1),
        (Budget, "seconds", math.nan),
    ],
)
def test_a_value_outside_its_range_is_refused_by_its_flag(kind, name, value):
    with pytest.raises(RainError, match=f"--{name.replace('_', '-')} is"):
        kind(**{name: value})


def test_a_response_ends_at_the_nearer_of_both_limits():
    assert RainConfig(maxlen=100).limit(30) == 100
    assert RainConfig(maxlen=100, max_new_tokens=20).limit(30) == 50
    assert RainConfig(maxlen=40, max_new_tokens=20).limit(30) == 40


def test_a_budget_is_spent_once_any_of_its_limits_is_reached():
    assert not Budget().spent(10**9, 10**12, 1e9)
    budget = Budget(simulations=10, tokens=1000, seconds=2.5)
    assert not budget.spent(9, 999, 2.4)
    assert [budget.spent(10, 0, 0), budget.spent(0, 1000, 0), budget.spent(0, 0, 2.5)] == [True] * 3


def test_an_early_share_moves_simulations_to_the_first_token_sets_and_keeps_their_sum():
    even, early = RainConfig(), RainConfig(early_share=0.5)
    assert [even.token_sets(length) for length in (1, 3, 7, 8, 17, 18)] == [1, 2, 3, 4, 4, 5]
    assert [even.new_simulations(step, 17, 0) for step in range(4)] == [50] * 4
    assert [early.new_simulations(step, 17, 0) for step in range(4)] == [107, 53, 27, 13]  # 200 x 8/15, 4/15, ...
    for share in (0.1, 0.37, 0.9):
        limits = [RainConfig(early_share=share).new_simulations(step, 96, 0) for step in range(12)]
        assert sum(limits) >= 50 * 12 and limits == sorted(limits, reverse=True)
    assert sum(RainConfig(early_share=0.1).new_simulations(step, 96, 0) for step in range(12)) == 50 * 12
    assert early.new_simulations(1, 17, 45) == 16, "the fifteen extra ones are multiplied alike, by 16/15"
    assert RainConfig(early_share=0.9).new_simulations(11, 96, 5) == 1, "the last ones get one at least"


UNREADABLE = "tokens tokens= tokens=x tokens=-1 tokens=0 words=3 seconds=nan tokens=1,tokens=2 tokens=1;n=2 ,"


@pytest.mark.parametrize("text", UNREADABLE.split())
def test_a_budget_that_cannot_be_read_is_refused(text):
    with pytest.raises(RainError, match="--budget is"):
        Budget.parse(text)


def test_a_budget_names_any_of_its_limits():
    assert Budget.parse("") == Budget()
    assert Budget.parse("tokens=7, seconds=2.5") == Budget(tokens=7, seconds=2.5)
