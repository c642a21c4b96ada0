"""Draws from the whole vocabulary: rightly distributed, the same everywhere, and not moved by rounding."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from rain.engines.local.sampling import TOP, Draw, gumbel_noise, read_rows


def drawn(logits, uniforms, temperature=1.0):
    draws = [Draw(row, temperature, uniform) for row, uniform in enumerate(uniforms)]
    return read_rows(logits, draws, [])[1]


def numbers(count):
    stream = random.Random(0)
    return [stream.random() for _ in range(count)]


def test_the_noise_is_splitmix64():
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # its published outputs for this seed
    found = gumbel_noise(torch.tensor([[1234567]]), torch.arange(3))[0].tolist()
    assert found == pytest.approx([-math.log(-math.log(((x >> 11) + 0.5) / 2**53)) for x in expected], rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    logits, count = torch.tensor([[2.0, 0.0, -1.0, 1.0, -30.0]]), 20_000
    found = drawn(logits.expand(count, -1), numbers(count), temperature)
    expected = torch.softmax(logits[0].double() / temperature, 0).tolist()
    for token, chance in enumerate(expected):
        share = sum(pair[0] == token for pair in found) / count
        assert abs(share - chance) < 4 * math.sqrt(chance / count) + 1e-9
    for token, logprob in found[:50]:
        assert logprob == pytest.approx(math.log(expected[token]), abs=1e-5)


def test_tokens_beyond_the_most_likely_ones_are_drawn_as_often_as_they_are_likely():
    torch.manual_seed(0)
    logits, count = torch.randn(1, 3 * TOP), 20_000
    found = Counter(token for token, _ in drawn(logits.expand(count, -1), numbers(count)))
    expected = torch.softmax(logits[0].double(), 0)
    assert 0.2 < float(expected.sort().values[: 2 * TOP].sum()) < 0.6
    chi_square = sum((found[token] - count * p) ** 2 / (count * p) for token, p in enumerate(expected.tolist()))
    assert chi_square < 3 * TOP + 4 * math.sqrt(6 * TOP)


def test_a_device_without_waiting_draws_the_same(monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(300, 3 * TOP)
    expected = drawn(logits, numbers(300))
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda tensor: torch.arange(len(tensor))[:, None])
    assert drawn(logits, numbers(300)) == expected


def test_without_a_number_the_most_likely_token_is_taken():
    [(token, logprob)] = drawn(torch.tensor([[0.0, 3.0, 1.0]]), [None])
    assert (token, round(logprob, 4)) == (1, round(3 - math.log(1 + math.exp(3) + math.exp(1)), 4))


def test_rounding_seldom_changes_a_token():
    torch.manual_seed(0)
    logits = 3 * torch.randn(1000, 5000)
    rounded = logits + 1e-5 * torch.randn_like(logits)
    pairs = list(zip(drawn(logits, numbers(1000)), drawn(rounded, numbers(1000)), strict=True))
    assert len({first[0] for first, _ in pairs}) > 100
    assert sum(first[0] != second[0] for first, second in pairs) <= 1
