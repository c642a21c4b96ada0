"""Read-outs: files, scores by hand, learning from texts that differ, and searches that are guided by one."""

from __future__ import annotations

import asyncio
import json
import math

import numpy as np
import pytest
from support.rows import save_rows
from support.tiny_models import save_tiny_model

from rain import Budget, Rain
from rain.cli import main
from rain.core.engine import Session, Usage
from rain.core.errors import RainError, UnclearFault
from rain.data.labelled import Labelled, part_of
from rain.engines.toy import ToyEngine
from rain.evaluators import readout
from rain.evaluators.assessment import read_preflight
from rain.evaluators.base import SearchContext
from rain.evaluators.learn import States, figures, learn, learn_request
from rain.evaluators.readout import ReadOutEvaluator
from rain.evaluators.readout_file import CHAT, ReadOutFile, RequestReadOut
from rain.models.loading import load_tokenizer
from rain.preflight import shared_file
from rain.settings import make_settings
from rain.tasks import load
from rain.text import TokenizerAdapter


def read_out(weights=(1.0, -2.0), bias=0.5, **changes):
    return ReadOutFile(
        **{"name": "kind", "model": "m", "prompt_format": CHAT, "layer": 1, **changes}, weights=weights, bias=bias
    )


REQUEST = RequestReadOut(2, (0.5, 1.0), -1.0)


def smallest(evaluator, means, ends=()):
    return min(reading.score for reading in evaluator.readings(means, ends or means))


@pytest.mark.parametrize("file", [read_out(), read_out(request=REQUEST)], ids=["text", "request, too"])
def test_a_file_is_read_as_it_was_written(file, tmp_path):
    path = tmp_path / "kind.json"
    path.write_bytes(file.as_json())
    assert ReadOutFile.load(str(path), "m") == file
    assert ReadOutFile.load(str(path), "m").digest == ReadOutFile(**{**vars(file), "measured": {"n": 1}}).digest
    assert ReadOutFile.load(str(path), "m").digest != read_out(bias=0.6).digest


ODD_REQUEST = '{"format": 1, "name": "x", "model": "m", "prompt_format": "f", "layer": 1, "weights": [], "request": 3}'


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 2}', '{"format": 1, "name": "x"}', "[" * 200_000, ODD_REQUEST], ids=len
)
def test_what_is_not_a_read_out_is_refused_by_name(content, tmp_path):
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(RainError, match=r"odd\.json"):
        ReadOutFile.load(str(path), "m")


def test_an_unknown_name_is_refused():
    with pytest.raises(RainError, match="'nobody'"):
        ReadOutFile.load("nobody", "smollm2")


@pytest.mark.parametrize(("used", "named"), [(("other", CHAT), "model"), (("m", "file"), "prompt format")])
def test_another_model_or_prompt_format_is_refused(used, named):
    with pytest.raises(RainError, match=named):
        read_out().check(*used)


def test_other_weights_under_the_same_name_are_refused(learnt, tmp_path):
    _, model, path = learnt
    for name in ("kind", "both"):
        assert len(ReadOutFile.load(str(path.with_name(f"{name}.json")), str(model)).fingerprint) > 64
    data = json.loads(path.read_text())
    other = tmp_path / "other.json"
    for fingerprint, code in ((data["fingerprint"], 0), ("0" * 64, None), ("", 0)):
        other.write_text(json.dumps({**data, "fingerprint": fingerprint}))
        given = {"modelname": str(model), "preset": "none", "evaluator": (f"readout:{other}",)}
        if code is None:
            with pytest.raises(RainError, match="weights"):
                make_settings(load("hh"), given)
        else:
            assert make_settings(load("hh"), given).aligner.evaluators[0].fingerprint == fingerprint


def test_the_score_is_tanh_of_half_the_logit_and_the_smallest_of_several():
    both = ReadOutEvaluator([read_out(), read_out(bias=-1.0)])
    assert smallest(both, [1.0, 3.0]) == pytest.approx(math.tanh((1.0 + 0.5) / 2))
    assert smallest(both, [3.0, 1.0]) == pytest.approx(0.0)
    assert smallest(ReadOutEvaluator([read_out()], invert=True), [1.0]) == pytest.approx(math.tanh(-1.5 / 2))


def test_a_text_does_harm_as_far_as_the_request_is_harmful_and_it_goes_along():
    evaluator = ReadOutEvaluator([read_out(bias=0.0, request=REQUEST), read_out(bias=0.0)])
    half, certain = 1.0, 1000.0  # log-odds of the request, after its bias of -1: 0 and 999
    for end, request in ((half, 0.5), (certain, 1.0), (-certain, 0.0)):
        # Numbers of the text: goes along with 3 to 1; of the request there (not used); the second read-out's.
        first, second = evaluator.readings([-math.log(3), 7.0, 2.0], [9.0, end, 9.0])
        assert first.request == pytest.approx(request)
        assert first.score == pytest.approx(1 - 2 * request * 0.75)
        assert (second.request, second.score) == (None, pytest.approx(math.tanh(1.0)))
    [inverted] = ReadOutEvaluator([read_out(request=REQUEST)], invert=True).readings([1.0, 0.0], [0.0, half])
    assert inverted.score == pytest.approx(2 * 0.5 / (1 + math.exp(1.5)) - 1)


def test_a_harmless_request_does_not_excuse_what_is_no_language():
    [found] = ReadOutEvaluator([read_out(bias=0.0, request=REQUEST)]).readings([2.0, 0.0], [0.0, -1000.0], False)
    assert (found.request, found.score) == pytest.approx((1.0, math.tanh(1.0)))


class CountedSession(Session):
    """Reads 0.0 everywhere, and remembers what was read."""

    def __init__(self):
        self.usage, self.asked = Usage(), []

    async def read_out(self, prefix, start, usage=None):
        self.asked.append((prefix, start))
        return np.zeros(2)

    async def generate(self, prefix, params):
        raise AssertionError("nothing is generated")

    next_logprobs = generate


def test_the_request_is_read_once_a_search_and_not_at_all_without_a_read_out_of_it():
    adapter = TokenizerAdapter(load_tokenizer("smollm2"))
    policy = load("hh").policy(adapter)
    for file, asked in ((read_out(request=REQUEST), 3), (read_out(), 2)):
        session = CountedSession()
        scorer = ReadOutEvaluator([file]).search(SearchContext(ToyEngine(), session, "s", (5, 6, 7), "Why?", policy))

        async def score(scorer=scorer):
            return [await scorer.score(adapter.encode(text)) for text in ("yes", "no", "yes")]

        asyncio.run(score())
        assert len(session.asked) == asked
        assert session.asked.count(((5, 6, 7), 2)) == asked - 2


LANGUAGE = {"It rains.": True, "Hmm...": True, "\U0001f600" * 5: False, "It is. " * 9: False, "Well, aaaaaa": False}


@pytest.mark.parametrize(("text", "excused"), LANGUAGE.items())
def test_what_is_language_is_told_by_the_text(text, excused):
    adapter = TokenizerAdapter(load_tokenizer("smollm2"))
    file, tokens = read_out(request=REQUEST), adapter.encode(text)
    context = SearchContext(ToyEngine(), CountedSession(), "s", (5, 6, 7), "Why?", load("hh").policy(adapter))
    scorer = ReadOutEvaluator([file]).search(context)
    asyncio.run(scorer.score(tokens))
    assert (scorer.seen(tokens)[0]["request"] == 1) is not excused


@pytest.mark.parametrize("numbers", [[math.nan, 0.0], [0.0, math.nan], [math.inf, 0.0]], ids=str)
def test_a_read_out_that_is_not_finite_is_an_error(numbers):
    with pytest.raises(UnclearFault, match="finite"):
        ReadOutEvaluator([read_out(request=REQUEST)]).readings(numbers, numbers)


def test_a_calibrated_read_out_scores_as_the_calibration_says():
    made = read_out().calibrated(0.25, 3.0, {"texts": 1})
    logit = 1.0 + 0.5
    assert smallest(ReadOutEvaluator([made]), [3.0 * 1.0]) == pytest.approx(math.tanh(3.0 * (logit / 2 - 0.25)))
    assert made.measured == {"calibrated": {"texts": 1}}


def separable(prompts=30):
    """Two texts a prompt, whose states at layer 6 tell good from bad, and at layer 3 do not.

    The last state of a prompt at layer 3 tells harmful requests from safe ones; every tenth is of neither kind.
    """
    random = np.random.default_rng(0)
    safe = [None if i % 10 == 9 else i % 2 == 0 for i in range(prompts)]
    texts = [Labelled(f"q{i}", "text", good, safe[i]) for i in range(prompts) for good in (True, False)]
    states = random.normal(size=(len(texts), 5, 2, 4))
    states[:, :, 1, 0] += np.array([3.0 if text.good else -3.0 for text in texts])[:, None]
    requests = random.normal(size=(len(texts), 2, 4))
    requests[:, 0, 1] += np.array([-3.0 if text.safe else 3.0 for text in texts])
    return texts, States([3, 6], states, np.full(len(texts), 64), requests)


def test_the_layer_that_tells_good_from_bad_is_found():
    texts, states = separable()
    learnt = learn(states, texts)
    assert learnt.layer == 6
    assert abs(learnt.weights[0]) > 3 * np.abs(learnt.weights[1:]).max()
    found = figures(learnt, states.counts, texts)
    assert found["4"]["auc"] > 0.95
    assert found["4"]["auc_interval"][0] <= found["4"]["auc"] <= found["4"]["auc_interval"][1]
    assert 0 <= found["4"]["safe_called_harmful"] < 0.2


def test_texts_of_one_label_in_few_small_prompts_are_held_out_in_turn():
    counts = {f"good{i}": (True, n) for i, n in enumerate((30, 30, 30, 30, 15))}
    counts |= {f"bad{i}": (False, 2) for i in range(5)}
    texts = [Labelled(question, "text", good) for question, (good, n) in counts.items() for _ in range(n)]
    states = np.random.default_rng(0).normal(size=(len(texts), 5, 1, 4))
    states[:, :, 0, 0] += np.array([3.0 if text.good else -3.0 for text in texts])[:, None]
    counts = np.full(len(texts), 64)
    learnt = learn(States([6], states, counts, states[:, 0]), texts)
    assert np.isfinite(learnt.held_out).all()
    assert figures(learnt, counts, texts)["4"]["auc"] > 0.95


def test_requests_are_told_apart_each_counted_once():
    texts, states = separable()
    request, measured = learn_request(states, texts)
    assert request.layer == 3
    assert request.weights[1] == max(map(abs, request.weights))
    assert measured["requests"] == 27, "three of 30 are of neither kind"
    assert measured["auc"] > 0.95


def test_too_few_prompts_are_refused():
    texts, states = separable(4)
    with pytest.raises(RainError, match="prompts"):
        learn(states, texts)
    texts, states = separable()
    with pytest.raises(RainError, match="2 bad texts of 1 prompt "):
        learn(states, [text._replace(good=text.question != "q0") for text in texts * 1])
    texts, states = separable()
    with pytest.raises(RainError, match="prompt_is_safe"):
        learn_request(states, [text._replace(safe=True) for text in texts])


def test_the_parts_of_the_prompts_are_disjoint_and_complete():
    texts = [Labelled(f"q{i % 40}", str(i), True) for i in range(80)]
    parts = [part_of(texts, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(text.response for part in parts for text in part) == sorted(text.response for text in texts)
    assert not {text.question for text in parts[0]} & {text.question for text in parts[1]}
    for part in ("3/2", "²/3"):
        with pytest.raises(RainError, match="--part"):
            part_of(texts, part)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A tiny model and a read-out that was learnt on its states: texts of "a" are good, of "z" bad.

    Beside it is one, both.json, that reads requests, too: those that begin with "q" are harmful, with "p" safe.
    """
    folder = tmp_path_factory.mktemp("learn")
    model = save_tiny_model(folder / "tiny", 8192)
    rows = [
        {"question": f"q {i}", "response": letter * (3 + i % 4), "label": letter == "a"}
        for i in range(30)
        for letter in "az"
    ]
    labelled = save_rows(folder / "texts.jsonl", *rows)
    path, flags = folder / "kind.json", ["--modelname", str(model), "--dtype", "float32", "--name", "kind"]
    code = main(["learn", str(path), "--labelled", str(labelled), *flags])
    asked = [{**row, "question": row["question"].replace("q", "p" * (3 + i % 3)), "prompt_is_safe": True}
             for i, row in enumerate(rows)] + [{**row, "prompt_is_safe": False} for row in rows]
    texts = ["--labelled", str(save_rows(folder / "requests.jsonl", *asked))]
    assert main(["learn", str(folder / "both.json"), *texts, "--request", *flags]) == 0
    return code, model, path


@pytest.mark.parametrize(
    ("prompts", "flags", "named"),
    [
        (2, [], "there are 2 prompts"),
        (40, ["--request"], "0 harmful requests"),
    ],
    ids=["prompts", "requests"],
)
def test_too_few_texts_are_refused_before_the_model_is_loaded(tmp_path, capsys, monkeypatch, prompts, flags, named):
    monkeypatch.delattr("rain.learn.open_engine")
    rows = [{"question": f"q{i % prompts}", "response": "r", "label": i % 2} for i in range(40)]
    texts = ["--labelled", str(save_rows(tmp_path / "few.jsonl", *rows))]
    assert main(["learn", str(tmp_path / "new.json"), *texts, *flags]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--prompt", "question.txt", "--chat-template"], "--prompt and --chat-template"),
        (["--engine", "toy"], "--engine toy cannot read hidden states"),
    ],
    ids=["two formats", "no states"],
)
def test_learning_refuses_what_it_cannot_follow(tmp_path, capsys, flags, named):
    assert main(["learn", str(tmp_path / "new.json"), *flags]) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_learns_and_says_how_well(learnt):
    code, model, path = learnt
    file = ReadOutFile.load(str(path), str(model))
    assert code == 0
    assert file.name == "kind"
    assert file.measured["texts"] == 60
    assert file.measured["by_length"]["4"]["auc"] > 0.9


@pytest.fixture(scope="module")
def measured(learnt, tmp_path_factory):
    """The read-out measured on the texts that it was learnt from: flags, calibration file, calibrated read-out."""
    _, model, path = learnt
    flags = ["--modelname", str(model), "--dtype", "float32", "--preset", "none", "--evaluator", f"readout:{path}"]
    calibration, made = path.with_name("cal.json"), path.with_name("made.json")
    texts = ["--labelled", str(path.with_name("texts.jsonl"))]
    assert main(["preflight", *flags, *texts, "--write", str(calibration), "--calibrate", str(made)]) == 0
    return flags, calibration, made


def test_a_read_out_is_measured_as_a_search_uses_it(measured):
    origin, found = read_preflight(measured[1])
    assert found.auc > 0.9
    assert found.label_mass is None
    assert set(found.by_length) == {"4", "8", "whole"}, "the longest of the texts has 7 tokens and a space"
    assert origin["evaluators"][0].startswith("readout:kind ")


def test_a_calibration_and_a_calibrated_read_out_give_the_same_scores(learnt, measured):
    _, model, _ = learnt
    flags, calibration, made = measured
    found, scores = read_preflight(calibration)[1], []
    for evaluator, file in ((flags[-1], str(calibration)), (f"readout:{made}", "")):
        options = {"dtype": "float32", "preset": "none", "evaluator": (evaluator,), "calibration": file}
        with Rain(model, task="hh", max_new_tokens=4, max_simulations=4, extra_simulations=2, **options) as rain:
            scores.append([commit.value for commit in rain.generate("q 1").commits])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    file = ReadOutFile.load(str(made), str(model))
    assert file.measured["calibrated"]["auc"] == found.auc
    assert file.measured["by_length"], "the figures of before stay"


def test_a_calibration_of_another_evaluator_is_refused(measured, capsys):
    _, calibration, made = measured
    with pytest.raises(RainError, match=r"cal\.json is one of readout:kind .* not of labels"):
        make_settings(load("hh"), {"preset": "none", "calibration": str(calibration)})


def test_texts_that_were_learnt_from_are_pointed_out_unless_their_prompts_are_others(measured, learnt, capsys):
    flags, _, _ = measured
    texts = ["--labelled", str(learnt[2].with_name("texts.jsonl"))]
    assert main(["preflight", *flags, *texts, "--part", "1/2"]) == 0
    assert "the read-out kind was learnt from texts.jsonl" in capsys.readouterr().err
    known = {"learnt_on": [{"file": "t", "sha256": "1"}], "part": "1/2"}
    assert shared_file(known, {"data": known["learnt_on"], "part": "1/2"}) == "t"
    assert shared_file(known, {"data": known["learnt_on"], "part": "2/2"}) is None
    assert shared_file(known, {"data": known["learnt_on"], "part": "01/2"}) == "t"
    assert shared_file(known, {"data": known["learnt_on"], "part": "2/3"}) == "t"
    assert shared_file(known, {"data": [{"file": "t", "sha256": "2"}], "part": ""}) is None
    assert shared_file({**known, "part": "odd"}, {"data": [], "part": ""}) is None


def searches(model, file, *questions):
    """Return answers on the engines hf and reference that a read-out has guided, which are the same."""
    found = []
    for engine in ("hf", "reference"):
        options = {"engine": engine, "dtype": "float32", "preset": "none", "evaluator": (f"readout:{file}",)}
        with Rain(model, task="hh", max_new_tokens=6, max_simulations=6, extra_simulations=2, **options) as rain:
            found.append([rain.generate(question, budget=Budget(simulations=12)) for question in questions])
    for hf, reference in zip(*found, strict=True):
        assert hf.text == reference.text
        assert [commit.value for commit in hf.commits] == pytest.approx([c.value for c in reference.commits], abs=1e-4)
        assert hf.cost["evaluation"]["tokens_computed"] <= hf.cost["evaluations"], "at most the last token of each text"
    return found


def test_a_search_is_guided_by_a_read_out_alike_on_both_engines_and_computes_little_for_it(learnt):
    _, model, path = learnt
    [hf], [reference] = searches(model, path, "q 1")
    assert len({commit.value for commit in hf.commits}) > 1
    assert hf.cost["tokens_computed"] < reference.cost["tokens_computed"] / 5
    for answer in (hf, reference):
        assert 0 < answer.cost["evaluation"]["tokens_computed"] < answer.cost["tokens_computed"]


def test_a_read_out_of_the_request_costs_nothing_and_stays_when_that_of_the_text_is_calibrated(learnt, monkeypatch):
    _, model, path = learnt
    monkeypatch.setattr(readout, "is_language", lambda tokens, text: True)  # a model with random weights writes symbols
    both = path.with_name("both.json")
    assert ReadOutFile.load(str(both), str(model)).measured["request"]["auc"] > 0.9
    answers, _ = searches(model, both, "q 1", "pppp 1")
    harmful, safe = ([commit.value for commit in answer.commits] for answer in answers)
    assert min(safe) > max(0.5, min(harmful)), "nothing that answers a safe request is bad"
    flags = ["--modelname", str(model), "--dtype", "float32", "--preset", "none", "--evaluator", f"readout:{both}"]
    texts = ["--labelled", str(path.with_name("requests.jsonl"))]
    made = path.with_name("both-made.json")
    assert main(["preflight", *flags, *texts, "--calibrate", str(made)]) == 0
    before, after = (ReadOutFile.load(str(file), str(model)) for file in (both, made))
    assert after.request == before.request
    assert after.measured["calibrated"]["scale"] == pytest.approx(after.weights[0] / before.weights[0])
