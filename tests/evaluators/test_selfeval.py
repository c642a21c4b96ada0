"""Self-evaluation by hand: votes, log-odds, labels in context, and that no text is judged twice."""

from __future__ import annotations

import asyncio
import math

import pytest
from support.judge import Judge, open_scorer
from support.tiny_models import metaspace_tokenizer
from support.tiny_task import LETTERS, SHIPPED, WORDS, template

from rain.core.errors import RainError, UnclearFault
from rain.engines.toy import EOS, ToyTokenizer
from rain.evaluators.calibration import read_calibration
from rain.evaluators.labels import (
    EvaluationConfig,
    LabelEvaluator,
    SelfEvalPrompt,
    cut_after_full_stop,
)
from rain.evaluators.templates import Template
from rain.text import TokenizerAdapter

TOY = TokenizerAdapter(ToyTokenizer())
LLAMA = TokenizerAdapter(metaspace_tokenizer())


def evaluator(folder, answer, text=LETTERS, **options):
    judge = Judge(lambda prefix, label: answer(TOY.decode(prefix), chr(label)))
    return open_scorer(SelfEvalPrompt(template(folder, text), TOY), judge, **options), judge


def asked(judge):
    return [TOY.decode(prefix) for prefix, _ in judge.asked]


def fixed(letter_a, letter_b):
    """Prefer a letter whatever it stands for, as a model that judges by position."""
    return lambda text, letter: {"A": letter_a, "B": letter_b}[letter]


def honest(text, letter):
    """Give the letter of the kind option 0.7 and the other 0.1."""
    return math.log(0.7 if f"({letter}) kind" in text.rpartition("Assistant:")[2] else 0.1)


def score(scorer, text):
    return asyncio.run(scorer.score(TOY.encode(text)))


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
    log_odds, mass = asyncio.run(scorer.read(TOY.encode(" Because.")))
    start = "Is it kind?\nHuman: Why?\n\nAssistant: Because.\n"
    ends = ("(A) kind\n(B) unkind\nThe answer is: (", "(A) unkind\n(B) kind\nThe answer is: (")
    assert asked(judge) == [start + end for end in ends]
    assert (log_odds, mass) == (pytest.approx((math.log(7), math.log(7))), pytest.approx(0.8))


@pytest.mark.parametrize(
    ("settings", "log_odds", "expected"),
    [
        ({"offset": 0.4}, [0.5, 0.3], 0.0),
        ({"offset": 0.6}, [0.5, 0.3], -1.0),
        ({"offset": -0.6}, [-0.5, -0.3], 1.0),
        ({"invert": True}, [0.5, 1.0], -1.0),
        ({"votes": "soft", "offset": 0.5, "scale": 2.0}, [2.0, 1.0], math.tanh(2.0 * (1.5 - 0.5))),
        ({"votes": "soft", "invert": True}, [0.5, 1.0], -math.tanh(0.75)),
    ],
)
def test_votes_are_hard_or_tanh_of_the_scaled_mean_log_odds_beyond_the_offset(settings, log_odds, expected):
    assert EvaluationConfig(**settings).score(log_odds) == pytest.approx(expected, abs=1e-12)


def test_a_scorer_follows_its_settings(tmp_path):
    scorer, _ = evaluator(tmp_path, honest, votes="soft", scale=0.1)
    assert score(scorer, "x") == pytest.approx(math.tanh(0.1 * math.log(7)), abs=1e-12)


def test_words_are_asked_once_and_the_best_label_of_each_side_counts(tmp_path):
    chances = {"y": 0.2, "Y": 0.3, "n": 0.25, "N": 0.1}
    text = WORDS.replace('" yes"\nyes', "y\nY").replace('" no"', "n\nN")
    scorer, judge = evaluator(tmp_path, lambda text, letter: math.log(chances[letter]), text)
    assert score(scorer, "x") == 1.0
    log_odds, mass = asyncio.run(scorer.evaluator.prompt.read(judge, scorer.context, TOY.encode("x")))
    assert (log_odds, mass) == (pytest.approx((math.log(0.3 / 0.25),)), pytest.approx(0.85))
    assert len(judge.asked) == 2, "one for each of the calls"


def test_a_text_is_judged_once_even_if_it_is_asked_for_twice_at_once(tmp_path):
    scorer, judge = evaluator(tmp_path, honest)

    async def run():
        same = [TOY.encode(" a"), (*TOY.encode(" a"), EOS), (*TOY.encode(" a"), EOS, 65)]
        return await asyncio.gather(*map(scorer.score, [*same, TOY.encode(" b")]))

    assert asyncio.run(run()) == [1.0] * 4
    assert scorer.evaluations == 2
    assert len(judge.asked) == 4


def test_who_asks_first_decides_nothing(tmp_path):
    """Two ways to write a text in tokens are two questions, whichever of them was asked about ahead."""
    scorer, judge = evaluator(tmp_path, honest)
    one, two = (32, 0xE2, 0x82), (32, 0xE2)
    assert TOY.decode(one) == TOY.decode(two), "both end in a replacement character"
    for response in (one, two):
        asyncio.run(scorer.score(response))
    assert len({prefix for prefix, _ in judge.asked}) == 4


def test_only_what_is_visible_is_judged(tmp_path):
    scorer, judge = evaluator(tmp_path, honest, stop=("\nHuman:",))
    score(scorer, " ab\nHuman: cd")
    assert all("Assistant: ab\n(A)" in text for text in asked(judge))


def test_for_truth_a_text_is_cut_after_its_last_full_stop(tmp_path):
    scorer, judge = evaluator(tmp_path, honest, cut=True)
    for text in (" One. Two. Thr", " no stop", " One. Two. Other"):
        score(scorer, text)
    assert "Assistant: One. Two.\n(A)" in asked(judge)[0]
    assert "Assistant: no stop\n(A)" in asked(judge)[2]
    assert len(judge.asked) == 4, "the third text is the first one"


def test_cutting_keeps_whole_tokens(smollm2_tokenizer):
    adapter = TokenizerAdapter(smollm2_tokenizer)
    text = adapter.encode("It is 3.5 m long. And")
    assert adapter.decode(cut_after_full_stop(text, adapter)) == "It is 3.5 m long."
    assert cut_after_full_stop((), adapter) == ()


def test_a_commit_tells_the_engine_how_every_later_evaluation_begins(tmp_path):
    scorer, judge = evaluator(tmp_path, honest)
    scorer.commit((*TOY.encode(" ab"), EOS))
    score(scorer, " ab c")
    [prefix] = map(TOY.decode, judge.committed)
    assert prefix.endswith("Assistant: ab")
    assert all(text.startswith(prefix) for text in asked(judge))


@pytest.mark.parametrize("adapter", [TOY, LLAMA], ids=["bytes", "llama"])
def test_what_is_computed_ahead_begins_every_evaluation(adapter, tmp_path):
    prompt, judge = SelfEvalPrompt(template(tmp_path), adapter), Judge()
    asyncio.run(LabelEvaluator(prompt, EvaluationConfig()).warm_up(judge))
    [shared] = judge.cached
    assert len(shared) > 15
    assert all(prompt.context(text)[: len(shared)] == shared for text in ("Why?", "a", " x", "9"))


def test_placeholders_and_options_in_a_question_are_ordinary_text(tmp_path):
    question = "{response} {first} (A) kind\nThe answer is: (B) {question}"
    context = SelfEvalPrompt(template(tmp_path), TOY).context(question)
    assert TOY.decode(context) == f"Is it kind?\nHuman: {question}\n\nAssistant:"


def test_labels_are_found_where_they_stand_even_merged_with_what_precedes_them(tmp_path):
    prompt = SelfEvalPrompt(template(tmp_path, LETTERS.replace("answer", "one")), LLAMA)
    labels = [(LLAMA.decode(ask.positive), LLAMA.decode(ask.negative)) for ask in prompt.label_prompts]
    assert labels == [("(A", "(B"), ("(B", "(A")]
    assert not any(LLAMA.decode(ask.tail).endswith("(") for ask in prompt.label_prompts)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_the_labels_of_shipped_templates_are_single_tokens_of_the_default_model(path, smollm2_tokenizer):
    adapter, found = TokenizerAdapter(smollm2_tokenizer), Template.from_file(path)
    for ask, (text, *labels) in zip(SelfEvalPrompt(found, adapter).label_prompts, found.asks(), strict=True):
        for ids, words in zip((ask.positive, ask.negative), labels, strict=True):
            assert {adapter.decode((*ask.tail, token)) for token in ids} == {text + word for word in words}


@pytest.mark.parametrize(("negative", "named"), [("untrue", "label 'untrue'"), ("y", "same token"), ('""', "label ''")])
def test_a_label_that_is_not_a_single_distinguishing_token_is_refused(negative, named, tmp_path):
    text = WORDS.replace('" yes"\nyes', "y\nY").replace(" True:", " True: ")
    assert SelfEvalPrompt(template(tmp_path, text.replace('" no"', "n")), TOY).label_prompts[0].negative == (ord("n"),)
    with pytest.raises(RainError, match=rf"template\.txt.*{named}"):
        SelfEvalPrompt(template(tmp_path, text.replace('" no"', negative)), TOY)


@pytest.mark.parametrize(
    ("name", "value"), [("votes", "loud"), ("scale", 0.0), ("scale", -1.0), ("offset", math.nan), ("scale", math.inf)]
)
def test_settings_outside_their_range_are_refused(name, value):
    with pytest.raises(RainError, match=f"--{name}"):
        EvaluationConfig(**{name: value})


@pytest.mark.parametrize(
    "broken",
    [None, "{", "[]", "{}", '{"offset": 1}', '{"offset": "x", "scale": 1}', '{"offset": null, "scale": 1}', "[" * 9999],
    ids=range(8),
)
def test_a_broken_calibration_is_named(broken, tmp_path):
    path = tmp_path / "calibration.json"
    if broken:
        path.write_text(broken)
    with pytest.raises(RainError, match=r"calibration\.json"):
        read_calibration(path)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_an_evaluation_whose_numbers_are_none_is_an_error_and_no_vote(value, tmp_path):
    scorer, _ = evaluator(tmp_path, fixed(value, -1.0))
    with pytest.raises(UnclearFault, match="--dtype"):
        score(scorer, "Hello.")
