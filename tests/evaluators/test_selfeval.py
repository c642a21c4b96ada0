"""Self-evaluation by hand: votes, log-odds, labels in context, and that no text is judged twice."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
from support.tiny_models import metaspace_tokenizer
from test_templates import LETTERS, SHIPPED, WORDS, saved

from rain.core.engine import Engine, Usage
from rain.core.errors import RainError
from rain.engines.toy import EOS, ToyTokenizer
from rain.evaluators.labels import Evaluation, EvaluationConfig, SelfEvaluator, cut_after_full_stop, read_calibration
from rain.evaluators.templates import load_template
from rain.text import Codec, TextRules

CODEC = Codec(ToyTokenizer())
A, B = ord("A"), ord("B")


class Judge(Engine):
    """Says of a text how likely its first option is good: log p(A), log p(B) by the text that is asked about."""

    def __init__(self, answer):
        self.answer, self.asked, self.committed, self.usage = answer, [], [], Usage()

    async def generate(self, prefix, **options):
        raise AssertionError("an evaluation generates nothing")

    async def next_logprobs(self, prefix, *, top=0, ids=()):
        text = CODEC.decode(prefix)
        self.asked.append(text)
        await asyncio.sleep(0)
        return {token: self.answer(text, chr(token)) for token in ids}

    def commit(self, prefix):
        self.committed.append(tuple(prefix))


def evaluator(folder, answer, text=LETTERS, cut=False, stop=(), **config):
    evaluation = Evaluation(load_template(saved(folder, text)), CODEC)
    rules = TextRules(CODEC, stop, False, 0, frozenset())
    judge = Judge(answer)
    return SelfEvaluator(evaluation, EvaluationConfig(**config), judge, rules, "Why?", cut), judge


def fixed(letter_a, letter_b):
    """Prefer a letter whatever stands behind it, as a model that judges by position."""
    return lambda text, letter: {"A": letter_a, "B": letter_b}[letter]


def honest(text, letter):
    """Give the letter of the kind option 0.7 and the other 0.1."""
    return math.log(0.7 if f"({letter}) It is kind." in text.rpartition("Assistant:")[2] else 0.1)


def score(scorer, text):
    return asyncio.run(scorer.score(CODEC.encode(text)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (honest, 1.0),
        (lambda text, letter: -honest(text, letter), -1.0),
        (fixed(-1.0, -2.0), 0.0),
        (fixed(-2.0, -1.0), 0.0),
        (fixed(-1.0, -1.0), -1.0),  # a vote needs the larger probability
    ],
    ids=["kind", "unkind", "always A", "always B", "undecided"],
)
def test_the_score_is_twice_the_mean_vote_minus_one(answer, expected, tmp_path):
    scorer, judge = evaluator(tmp_path, answer)
    assert score(scorer, " Because.") == expected
    assert len(judge.asked) == 2


def test_both_orders_are_asked_about_the_whole_text_in_its_place(tmp_path):
    scorer, judge = evaluator(tmp_path, honest)
    score(scorer, " Because.")
    start = "Judge.\n\nHuman: HiHuman: Why?\n\nAssistant: Because.\n"
    assert judge.asked == [
        start + "(A) It is kind.\n(B) It is unkind.\nThe answer is: (",
        start + "(A) It is unkind.\n(B) It is kind.\nThe answer is: (",
    ]


def test_soft_votes_are_tanh_of_the_scaled_mean_log_odds_beyond_the_offset(tmp_path):
    config = EvaluationConfig(votes="soft", offset=0.5, scale=2.0)
    assert config.score([2.0, 1.0]) == pytest.approx(math.tanh(2.0 * (1.5 - 0.5)), abs=1e-12)
    scorer, _ = evaluator(tmp_path, honest, votes="soft", scale=0.1)
    assert score(scorer, "x") == pytest.approx(math.tanh(0.1 * math.log(7)), abs=1e-12)


def test_an_offset_moves_the_point_at_which_hard_votes_turn():
    assert EvaluationConfig(offset=0.4).score([0.5, 0.3]) == 0.0
    assert EvaluationConfig(offset=0.6).score([0.5, 0.3]) == -1.0
    assert EvaluationConfig(offset=-0.6).score([-0.5, -0.3]) == 1.0


def test_an_inverted_goal_turns_the_score_around():
    for votes in ("hard", "soft"):
        plain, turned = (EvaluationConfig(votes=votes, invert=invert).score([0.5, 1.0]) for invert in (False, True))
        assert plain == -turned != 0


def test_words_are_asked_once_and_the_best_label_of_each_side_counts(tmp_path):
    chances = {"y": 0.2, "Y": 0.3, "n": 0.25, "N": 0.1}
    text = WORDS.replace('" yes"\nyes', "y\nY").replace('" no"', "n\nN")
    scorer, judge = evaluator(tmp_path, lambda text, letter: math.log(chances[letter]), text)
    assert score(scorer, "x") == 1.0 and len(judge.asked) == 1
    reading = asyncio.run(scorer.evaluation.read(judge, scorer.context, CODEC.encode("x")))
    assert reading.log_odds == pytest.approx((math.log(0.3 / 0.25),)) and reading.mass == pytest.approx(0.85)


def test_the_mass_is_the_mean_probability_of_all_labels(tmp_path):
    scorer, judge = evaluator(tmp_path, honest)
    reading = asyncio.run(scorer.evaluation.read(judge, scorer.context, ()))
    assert reading.mass == pytest.approx(0.8)
    assert reading.log_odds == pytest.approx((math.log(7), math.log(7)))


def test_a_text_is_judged_once_even_if_it_is_asked_for_twice_at_the_same_time(tmp_path):
    scorer, judge = evaluator(tmp_path, honest)

    async def run():
        same = [CODEC.encode(" a"), (*CODEC.encode(" a"), EOS), (*CODEC.encode(" a"), EOS, 65)]
        return await asyncio.gather(*map(scorer.score, [*same, CODEC.encode(" b")]))

    assert asyncio.run(run()) == [1.0] * 4
    assert scorer.evaluations == 2 and len(judge.asked) == 4


def test_only_what_is_visible_is_judged(tmp_path):
    scorer, judge = evaluator(tmp_path, honest, stop=("\nHuman:",))
    score(scorer, " ab\nHuman: cd")
    assert all("Assistant: ab\n(A)" in text for text in judge.asked)


def test_for_truth_a_text_is_cut_behind_its_last_full_stop(tmp_path):
    scorer, judge = evaluator(tmp_path, honest, cut=True)
    score(scorer, " One. Two. Thr")
    score(scorer, " no stop")
    assert "Assistant: One. Two.\n(A)" in judge.asked[0] and "Assistant: no stop\n(A)" in judge.asked[2]
    assert score(scorer, " One. Two. Other") == 1.0 and len(judge.asked) == 4


def test_cutting_keeps_whole_tokens(smollm2_tokenizer):
    codec = Codec(smollm2_tokenizer)
    text = codec.encode("It is 3.5 m long. And")
    assert codec.decode(cut_after_full_stop(text, codec)) == "It is 3.5 m long."
    assert cut_after_full_stop((), codec) == ()


def test_a_commit_tells_the_engine_what_every_later_evaluation_begins_with(tmp_path):
    scorer, judge = evaluator(tmp_path, honest)
    scorer.commit((*CODEC.encode(" ab"), EOS))
    score(scorer, " ab c")
    [prefix] = judge.committed
    assert all(text.startswith(CODEC.decode(prefix)) for text in judge.asked)
    assert CODEC.decode(prefix).endswith("Assistant: ab")


def test_what_is_pinned_begins_every_evaluation(tmp_path):
    for codec in (CODEC, Codec(metaspace_tokenizer())):
        evaluation = Evaluation(load_template(saved(tmp_path, LETTERS)), codec)
        assert len(evaluation.pinned) > 15
        for question in ("Why?", "a", " x", "9"):
            assert evaluation.context(question)[: len(evaluation.pinned)] == evaluation.pinned


def test_placeholders_and_options_in_a_question_are_ordinary_text(tmp_path):
    evaluation = Evaluation(load_template(saved(tmp_path, LETTERS)), CODEC)
    question = "{response} {first} (A) It is kind.\nThe answer is: (B) {question}"
    assert CODEC.decode(evaluation.context(question)) == f"Judge.\n\nHuman: HiHuman: {question}\n\nAssistant:"


def test_labels_are_found_where_they_stand_even_if_they_merge_with_what_comes_before(tmp_path):
    codec = Codec(metaspace_tokenizer())
    evaluation = Evaluation(load_template(saved(tmp_path, LETTERS.replace("answer", "one"))), codec)
    for ask, labels in zip(evaluation.askings, [("(A", "(B"), ("(B", "(A")], strict=True):
        assert (codec.decode(ask.positive), codec.decode(ask.negative)) == labels
        assert not codec.decode(ask.tail).endswith("(")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_the_labels_of_every_shipped_template_are_single_tokens_of_the_default_model(path, smollm2_tokenizer):
    codec = Codec(smollm2_tokenizer)
    template = load_template(path)
    evaluation = Evaluation(template, codec)
    for ask, (text, positive, negative) in zip(evaluation.askings, template.asks(), strict=True):
        good, bad = ({codec.decode(ask.tail + (token,)) for token in ids} for ids in (ask.positive, ask.negative))
        assert (good, bad) == ({text + label for label in positive}, {text + label for label in negative})


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('" no"', "untrue", "'untrue' is no single token"),
        ('" no"', " y\n", "same token"),
        ('" no"', '""', "no single token"),
    ],
)
def test_a_label_that_is_no_single_distinguishing_token_is_an_error_at_start_up(old, new, named, tmp_path):
    text = WORDS.replace('" yes"\nyes', '" y"\n" Y"').replace(" True:", " True: ").replace('" y"\n" Y"', "y\nY")
    path = saved(tmp_path, text.replace('" no"', "n"))
    assert Evaluation(load_template(path), CODEC).askings[0].negative == (ord("n"),)
    path = saved(tmp_path, text.replace(old, new.strip() if new.strip() == "y" else new))
    with pytest.raises(RainError, match=named) as caught:
        Evaluation(load_template(path), CODEC)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "config", [{"votes": "loud"}, {"scale": 0.0}, {"scale": -1.0}, {"offset": math.nan}, {"scale": math.inf}]
)
def test_settings_outside_their_range_are_refused(config):
    with pytest.raises(RainError):
        EvaluationConfig(**config)


def test_a_calibration_is_read_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"offset": -0.5, "scale": 2}))
    assert read_calibration(path) == (-0.5, 2.0)
    for broken in ("{", "[]", "{}", '{"offset": 1}', '{"offset": "x", "scale": 1}', '{"offset": null, "scale": 1}'):
        path.write_text(broken)
        with pytest.raises(RainError, match="calibration"):
            read_calibration(path)
    with pytest.raises(RainError, match=r"none\.json"):
        read_calibration(tmp_path / "none.json")
