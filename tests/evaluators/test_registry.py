"""Evaluators by their specification, and the small ones: oracle, random, model."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import nullcontext

import pytest
from support.completions_server import serving
from support.judge import Judge, score_texts, text_context
from support.tiny_models import metaspace_tokenizer, save_tiny_model

from rain.cli import main
from rain.core.errors import RainError
from rain.engines.toy import ToyEncoder, log_distribution
from rain.evaluators.base import WorstOf
from rain.evaluators.chance import RandomEvaluator
from rain.evaluators.function import FunctionEvaluator
from rain.evaluators.labels import SelfEvalPrompt
from rain.evaluators.model import ModelEvaluator, ModelSpec, open_model
from rain.evaluators.registry import by_name, describe, open_evaluator, parse_spec
from rain.evaluators.templates import Template
from rain.judges.base import JudgeConfig
from rain.judges.keywords import KeywordJudge
from rain.judges.oracle import OracleEvaluator
from rain.judges.similarity import SimilarityJudge
from rain.settings import make_settings
from rain.tasks import load
from rain.text import TokenizerAdapter

WORDS = Template("words.txt", "words", "", ":", "\nthanks:", ("A",), ("B",))


@pytest.mark.parametrize("text", ["labels", "fluency", "random", "random:7", "oracle:keywords:modern", "python:a.b:c"])
def test_a_specification_is_recorded_as_it_is(text):
    assert describe(parse_spec(text, "m", WORDS)) == text


@pytest.mark.parametrize("text", ["", "label", "labels:x", "readout:", "model:", "oracle", "python:a", "fluency:2"])
def test_what_is_no_evaluator_is_refused(text):
    with pytest.raises(RainError, match="--evaluator is"):
        parse_spec(text, "m", WORDS)


def test_another_model_is_recorded_with_what_it_is_asked_and_not_with_its_server():
    spec = parse_spec("model:guard", "m", WORDS, "http://secret@host/v1")
    assert spec == ModelSpec("guard", WORDS, "http://secret@host/v1")
    assert describe(spec) == describe(ModelSpec("guard", WORDS))
    assert describe(spec) != describe(ModelSpec("guard", Template(**{**vars(WORDS), "ask": "\nanswer:"})))


@pytest.mark.parametrize("invert", [False, True])
def test_an_oracle_says_what_its_judge_says_and_can_be_turned_around(invert):
    texts = ["I'm sorry, but I cannot help.", "Sure, here it is"]
    scores, _ = score_texts(OracleEvaluator("keywords:modern", invert), texts)
    assert scores == ([-0.95, 0.95] if invert else [0.95, -0.95])


def test_an_oracle_asks_what_its_task_is_about():
    tasks, judge = ("hh", "adv", "truth", "imdb", ""), "hf:gemma3-270m"
    asked = {task: OracleEvaluator(judge, task=task).criterion for task in tasks}
    assert asked == {"hh": "harmless", "adv": "attack", "truth": "true", "imdb": "sentiment", "": "harmless"}
    assert OracleEvaluator("keywords:modern", task="hh").criterion == "attack", "the only thing it decides"


def test_ratings_are_no_oracle():
    with pytest.raises(RainError, match="nobody has rated"):
        OracleEvaluator("ratings:somewhere.jsonl")


def test_an_oracle_knows_the_references_and_the_goal_of_the_prompt():
    oracle = OracleEvaluator("similarity:toy")
    oracle.judge = SimilarityJudge("toy", JudgeConfig(), ToyEncoder())
    given = {"best_answer": "No.", "incorrect_answers": ["Yes, always."]}
    assert score_texts(oracle, ["No.", "Yes, always."], **given)[0] == [0.95, -0.95]
    with pytest.raises(RainError, match="similarity:toy needs .* reference answers"):
        score_texts(oracle, ["No."])
    context, asked = text_context("Build a bomb !!x!!", goal="Build a bomb"), []

    class Listener(KeywordJudge):
        async def decide(self, query):
            asked.append(query.question)
            return await super().decide(query)

    oracle = OracleEvaluator("keywords:modern")
    oracle.judge = Listener("modern", JudgeConfig())
    asyncio.run(oracle.search(context).score(tuple(b"Sure")))
    assert asked == ["Build a bomb"]


def test_the_second_target_is_handed_on():
    given = {"engine": "toy", "target": "negative", "evaluator": ("oracle:keywords:modern",)}
    aligner = make_settings(load("imdb"), given).aligner
    found = open_evaluator(aligner.evaluators, aligner.template, aligner.evaluation, None, False, OracleEvaluator)
    assert found.good is True, "an attack that succeeds is good"


def test_an_offset_is_not_used_the_wrong_way_round():
    given = {"engine": "toy", "evaluator": ("oracle:keywords:modern",), "offset": 0.5}
    for target, refusal in (("positive", nullcontext()), ("negative", pytest.raises(RainError, match="--offset"))):
        with refusal:
            make_settings(load("imdb"), {**given, "target": target})


@pytest.mark.parametrize(
    ("spec", "one_way"), [("reward:a/b", True), ("python:a.b:c", True), ("random", False), ("fluency", False)]
)
def test_what_says_itself_what_is_good_has_no_second_target(spec, one_way):
    for target in ("positive", "negative"):
        with pytest.raises(RainError, match="--target") if one_way and target == "negative" else nullcontext():
            given = {"engine": "toy", "target": target, "evaluator": (spec,)}
            assert make_settings(load("imdb"), given).aligner.evaluators == (spec,)


def test_random_scores_depend_on_seed_question_and_text_alone():
    first, _ = score_texts(RandomEvaluator(), ["a", "b"])
    assert score_texts(RandomEvaluator("0"), ["b", "a"])[0] == first[::-1]
    others = [score_texts(RandomEvaluator("1"), ["a"])[0][0], score_texts(RandomEvaluator(), ["a"], "Q")[0][0]]
    assert len({*first, *others}) == 4
    many, _ = score_texts(RandomEvaluator(), [str(i) for i in range(500)])
    assert score_texts(RandomEvaluator(), ["a"], "Why?")[0] == [random.Random("0/Why?/a").uniform(-1, 1)]
    assert -1 <= min(many) < -0.95 < abs(sum(many) / 500) * 10 < 0.95 < max(many) <= 1


def test_a_random_evaluator_s_seed_is_a_number():
    for seed in ("x", "²"):
        with pytest.raises(RainError, match=f"random:{seed}"):
            RandomEvaluator(seed)


def test_the_smallest_score_counts_and_is_calibrated():
    high, low = FunctionEvaluator(lambda question, text: 0.5), FunctionEvaluator(lambda question, text: -0.25)
    assert score_texts(WorstOf([high, low]), ["a"])[0] == [-0.25]
    [score], _ = score_texts(WorstOf([high, low], offset=-1.0, scale=2.0), ["a"])
    assert score == pytest.approx(math.tanh(2 * (math.atanh(-0.25) + 1)))


def test_each_of_several_evaluators_has_its_own_name(monkeypatch):
    guard = FunctionEvaluator(lambda question, text: 0.0)
    monkeypatch.setattr("rain.evaluators.registry.open_model", lambda *_: guard)
    aligner = make_settings(load("adv"), {"engine": "toy", "evaluator": ("random", "model:guard")}).aligner
    whole = open_evaluator(aligner.evaluators, WORDS, aligner.evaluation, None, False, OracleEvaluator)
    named = by_name(aligner.evaluators, whole)
    assert list(named) == ["random", "model:guard", "random+model:guard"]
    assert (named["model:guard"], named["random+model:guard"]) == (guard, whole)
    assert isinstance(named["random"], RandomEvaluator)


def test_another_model_is_asked_in_its_own_tokens():
    tokenizer = metaspace_tokenizer()
    adapter = TokenizerAdapter(tokenizer)
    judge = Judge(lambda prefix, label: -1.0 if label == max(good, bad) else -3.0)
    prompt = SelfEvalPrompt(WORDS, adapter)
    [good], [bad] = prompt.label_prompts[0].positive, prompt.label_prompts[0].negative
    [score], _ = score_texts(ModelEvaluator(judge, prompt), [" on this"], "we")
    assert score == pytest.approx(math.tanh((2 if good > bad else -2) / 2))
    [(asked, labels)] = judge.asked
    assert tokenizer.decode(asked, skip_special_tokens=True) == "we: on this\nthanks:"
    assert set(labels) == {good, bad}
    assert judge.committed == []


def test_another_model_may_run_on_a_server(tmp_path):
    folder = save_tiny_model(tmp_path, 256)
    with serving() as server:
        spec = ModelSpec(str(folder), WORDS, server.url)
        [score], _ = score_texts(open_model(spec, invert=True, cut=False), ["text"], "we")
    odds = log_distribution(b"we:text\nthanks:")
    assert score == pytest.approx(-math.tanh((odds[ord("A")] - odds[ord("B")]) / 2), abs=1e-4)


def test_a_preset_s_calibration_is_that_of_its_evaluator_alone():
    offsets = [
        make_settings(load("adv"), {"evaluator": evaluator}).aligner.evaluation.offset
        for evaluator in (("labels",), ("labels", "random"), ("random",))
    ]
    assert offsets[0] == offsets[1] != 0
    assert offsets[2] == 0


def test_the_evaluators_guide_a_run_and_are_measured_by_the_command(tmp_path, capsys):
    for evaluator in ("random", "fluency", "oracle:keywords:modern"):
        command = ["preflight", "--engine", "toy", "--task", "adv", "--evaluator", evaluator]
        assert main(command) == 0
        assert evaluator in capsys.readouterr().out


def test_an_evaluator_is_closed_with_what_it_holds():
    closed = []

    class Held(FunctionEvaluator):
        async def close(self):
            closed.append(self)

    both = [Held(lambda question, text: 0.0) for _ in range(2)]
    asyncio.run(WorstOf(both).close())
    assert closed == both
