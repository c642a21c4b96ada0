"""Fluency: by hand, and for the tokens of the toy model."""

from __future__ import annotations

import math

import pytest
from support.judge import score_texts

from rain.engines.toy import ToySession, log_distribution
from rain.evaluators.fluency import FluencyEvaluator, fluency

WORDS = tuple(range(20))


def test_nats_count_per_token_and_a_short_text_is_given_time():
    assert fluency([-2.5] * 20, WORDS, "a fluent text") == pytest.approx(math.tanh(1.5))
    assert fluency([-4.5] * 20, WORDS, "gibberish") == pytest.approx(math.tanh(-1.5))
    assert fluency([-4.5] * 4, WORDS[:4], "text") == pytest.approx(math.tanh(1.5 * (3.5 - 4.5 / 2)))


def test_repetition_and_symbols_are_bad_however_likely_they_are():
    row, words = tuple([1, 2] * 10), "word " * 10
    assert fluency([-0.1] * 20, row, words) == pytest.approx(math.tanh(8 * (0.3 - (1 - 2 / 17))))
    assert fluency([-0.1] * 20, WORDS, "\U0001f600\U0001f4a3 \U0001f525\u2764\ufe0f") < -0.99
    assert fluency([-0.1] * 20, WORDS, "\u4f60\u597d, caf\xe9: 2 + 2 = 4!") > 0.9


def test_each_token_is_asked_for_once_behind_the_prompt(monkeypatch):
    asked, plain = [], ToySession.next_logprobs

    async def watched(self, prefix, *, top=0, ids=()):
        asked.append((tuple(prefix), tuple(ids)))
        return await plain(self, prefix, top=top, ids=ids)

    monkeypatch.setattr(ToySession, "next_logprobs", watched)
    [first, longer, same], scorer = score_texts(FluencyEvaluator(), ["ab", "abc", "ab"], "Q")
    assert sorted(asked) == [((81,), (97,)), ((81, 97), (98,)), ((81, 97, 98), (99,))]
    logprobs = [log_distribution([81])[97], log_distribution([81, 97])[98]]
    assert first == same == fluency(logprobs, (97, 98), "ab") != longer
    assert scorer.evaluations == 2
