"""``Rain``: what it answers, and what decides it: prompt, seed, limits, budget, goal, template, scorer."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.tiny_task import WORDS, saved
from support.watched import QUESTIONS, decided

from rain import Answer, Budget, Rain, RainConfig, RainError
from rain.engines.toy import EOS, ToyTokenizer
from rain.evaluators.readout import ReadOutEvaluator
from rain.evaluators.readout_file import CHAT as CHAT_FORMAT
from rain.evaluators.readout_file import ReadOutFile, prompt_format
from rain.settings import make_settings
from rain.tasks import load

BRIEF = WORDS.replace('" yes"\nyes', "y").replace('" no"', "n").replace("True:", "True: ")
NO_SCORE = {"scorer": lambda prompt, text: 0.0}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "A"}]
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"


def test_a_string_gives_an_answer_and_a_list_gives_a_list(rain):
    answers = rain.generate(QUESTIONS)
    assert [decided(answer) for answer in answers] == [decided(rain.generate(question)) for question in QUESTIONS]
    assert {type(answer) for answer in answers} == {Answer}
    assert len({answer.text for answer in answers}) == len(QUESTIONS)
    assert rain.generate([]) == []
    assert str(answers[0]) == answers[0].text == answers[0].text.strip() != ""


def test_an_answer_tells_its_commits_and_what_it_cost(rain):
    answer = rain.generate("Why?")
    assert "".join(commit.text for commit in answer.commits).strip().startswith(answer.text)
    assert all(-1 <= commit.value <= 1 for commit in answer.commits)
    assert answer.cost["simulations"] == sum(commit.simulations for commit in answer.commits)
    assert answer.cost["requests"] > answer.cost["evaluation"]["requests"] == 2 * answer.cost["evaluations"] > 0
    assert answer.cost["tokens_computed"] > answer.cost["evaluation"]["tokens_computed"] > 0


def test_no_token_follows_the_end_of_sequence(rain):
    answers = [rain.generate(question, seed=seed) for question in QUESTIONS for seed in range(4)]
    assert {"eos", "length"} == {answer.finish for answer in answers}
    for answer in answers:
        assert answer.tokens.count(EOS) == (answer.finish == "eos") == (answer.tokens[-1] == EOS)
        if answer.finish == "eos":
            assert "".join(commit.text for commit in answer.commits).strip() == answer.text


def test_a_baseline_is_the_greedy_answer(rain):
    plain = rain.baseline("Why?")
    assert plain.commits == ()
    assert plain.cost["requests"] == 1
    assert [answer.text for answer in rain.baseline(["Why?", "Why?"])] == [plain.text] * 2


def test_token_ids_are_answered_as_the_prompt_that_they_are(rain):
    tokens = rain.prepare("Why?").tokens
    assert rain.prepare(tokens).tokens == tokens
    assert rain.prepare(tokens, question="Why?").question == "Why?"
    assert rain.baseline(tokens).text == rain.baseline("Why?").text


@pytest.fixture
def chat_rain(open_rain, monkeypatch):
    """A model with a chat template, a special token and Jinja."""
    jinja2 = pytest.importorskip("jinja2")

    def render(self, messages, *, tokenize, add_generation_prompt):
        return jinja2.Template(CHAT).render(messages=messages, add_generation_prompt=add_generation_prompt)

    monkeypatch.setattr(ToyTokenizer, "chat_template", CHAT)
    monkeypatch.setattr(ToyTokenizer, "apply_chat_template", render, raising=False)
    return open_rain()


def shown(rain, prompt):
    return rain.aligner.adapter.decode(rain.prepare(prompt).tokens)


def test_a_conversation_is_rendered_with_all_its_roles(chat_rain, open_rain):
    assert shown(chat_rain, "A") == "<user>A<me>"
    assert shown(chat_rain, TALK) == "<user>Hi<assistant>Hello.<user>A<me>"
    assert shown(chat_rain, [{"role": "system", "content": "S"}, *TALK[:1]]) == "<system>S<user>Hi<me>"
    assert chat_rain.generate([TALK, "A"])[0].text == chat_rain.generate(TALK).text != ""
    assert shown(open_rain(chat_template=False), "A").endswith("Human: A\n\nAssistant:")


def test_what_the_answer_cannot_hold_is_not_scored(open_rain):
    seen = []
    rain = open_rain(scorer=lambda prompt, text: float(seen.append(text) or 0))
    for limit in (5, 9):
        answer = rain.generate("Why?", max_new_tokens=limit)
        assert len(answer.tokens) <= limit and max(map(len, seen)) == limit


def test_the_evaluator_is_told_the_whole_conversation_but_for_the_beginning_of_the_answer(chat_rain):
    opening = chat_rain.aligner.config.template.head.rpartition("\n")[2]
    middle = chat_rain.aligner.config.template.middle
    assert chat_rain.prepare(TALK).question == f"Hi{middle} Hello.\n\n{opening}A"
    assert chat_rain.prepare(TALK[:2]).question == "Hi"


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        (["Why?", [{"role": "user", "content": 1}]], "message 0.*'content'"),
        ("", "empty"),
        ([""], "empty"),
        ([[]], "empty"),
        ((), "empty"),
        ([7], "prompt"),
        (7, "prompt"),
        ("x" * 70_000, "tokens"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused_by_name(prompt, named, chat_rain):
    with pytest.raises(RainError, match=named):
        chat_rain.generate(prompt)


@pytest.mark.parametrize("call", ["generate", "baseline", "prepare", "stream"])
def test_an_unknown_option_is_refused_with_the_one_it_resembles(call, rain):
    with pytest.raises(RainError, match="max_new_tokens"):
        list(getattr(rain, call)("q 1", max_new_token=3))


@pytest.mark.parametrize("options", [{"budget": 5}, {"max_new_tokens": "3"}, {"seed": "a"}, {"seed": True}])
@pytest.mark.parametrize("call", ["generate", "prepare", "stream"])
def test_an_option_of_another_type_is_refused_by_name(call, options, rain):
    with pytest.raises(RainError, match=next(iter(options))):
        list(getattr(rain, call)("q 1", **options))


def test_the_seed_of_the_call_or_else_of_the_object_decides_the_text(rain, open_rain):
    texts = [rain.generate("Why?", seed=seed).text for seed in (0, 1, 2, 3)]
    assert len(set(texts)) > 1
    assert [rain.generate("Why?", seed=seed).text for seed in (0, 1, 2, 3)] == texts
    assert rain.generate("Why?").text == texts[0]
    assert open_rain(seed=3).generate("Why?").text == texts[3]


def test_a_stop_may_be_one_string_or_several_or_none(rain):
    whole = rain.generate("Why?").text
    stop = whole[len(whole) // 2 :][:2]
    assert rain.prepare("Why?", stop=stop).stop == rain.prepare("Why?", stop=[stop]).stop == (stop,)
    assert stop not in rain.generate("Why?", stop=stop).text
    assert rain.generate("Why?", stop=None).text == whole


@pytest.mark.parametrize(
    ("method", "call", "options", "named"),
    [
        ("rain", "generate", {"stop": ["", "x"]}, "none of them empty"),
        ("rain", "generate", {"stop": ""}, "none of them empty"),
        ("rain", "baseline", {"trace": "folder"}, "trace .* baseline"),
        ("rain", "aevents", {"trace": "folder"}, "trace .* baseline"),
        ("greedy", "generate", {"trace": "folder"}, "trace .* greedy"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(method, call, options, named, open_rain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rain = open_rain(method=method, **NO_SCORE)
    with pytest.raises(RainError, match=named):
        if call == "aevents":
            asyncio.run(anext(rain.aevents("Why?", plain=True, **options)))
        list(getattr(rain, call)("Why?", **options))
    assert not list(tmp_path.iterdir())


def test_max_new_tokens_per_call_limits_rain_and_baseline(rain):
    for limit in (1, 5, 40):
        assert len(rain.generate("Why?", max_new_tokens=limit).tokens) <= limit
        assert len(rain.baseline("Why?", max_new_tokens=limit).tokens) <= limit
    assert rain.generate("Why?", max_new_tokens=5).finish == "length"
    with pytest.raises(RainError, match="--max-new-tokens"):
        rain.generate("Why?", max_new_tokens=-1)


@pytest.mark.usefixtures("difficult")
@pytest.mark.parametrize("limit", [1, 9, 20, 33, 50])
def test_a_budget_of_simulations_is_never_exceeded(limit, rain):
    for seed in range(3):
        whole = rain.generate("Why?", seed=seed)
        part = rain.generate("Why?", seed=seed, budget=Budget(simulations=limit))
        assert part.cost["simulations"] == min(limit, whole.cost["simulations"])
        assert part.finish == ("budget" if limit < whole.cost["simulations"] else whole.finish)
        assert whole.text.startswith(part.text)
        assert part.commits == whole.commits[: len(part.commits)]
        assert "".join(rain.stream("Why?", seed=seed, budget=Budget(simulations=limit))) == part.text


def test_a_budget_of_tokens_ends_an_answer(rain):
    whole = rain.generate("Why?")
    part = rain.generate("Why?", budget=Budget(tokens=whole.cost["tokens_computed"] // 2))
    assert part.finish == "budget"
    assert whole.text.startswith(part.text)
    assert 0 < len(part.commits) < len(whole.commits)
    assert part.cost["tokens_computed"] < whole.cost["tokens_computed"]


def test_a_budget_of_seconds_ends_an_answer(rain, monkeypatch):
    whole = rain.generate("Why?")
    clock = iter(range(10**6))  # a second passes whenever somebody looks
    monkeypatch.setattr("rain.methods.base.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    part = rain.generate("Why?", budget=Budget(seconds=20))
    assert part.finish == "budget"
    assert whole.text.startswith(part.text)
    assert 0 < part.cost["simulations"] <= 20


def test_a_budget_ends_a_plain_answer_too(rain):
    whole, prompt = rain.baseline("Why not?"), rain.prepare("Why not?").tokens
    part = rain.baseline("Why not?", budget=Budget(tokens=len(prompt) + 5))
    assert (part.finish, len(part.tokens)) == ("budget", 5)
    assert whole.text.startswith(part.text)


def test_a_method_and_a_budget_of_the_settings_are_those_of_every_answer(open_rain):
    rain = open_rain(method="best-of-n", n=5, budget="simulations=3", **NO_SCORE)
    assert (rain.generate("Why?").finish, len(rain.generate("Why?").drafts)) == ("budget", 3)
    assert len(rain.generate("Why?", budget=Budget()).drafts) == 5
    assert list(rain.stream("Why?")) == [rain.generate("Why?").text]
    assert rain.baseline("Why?").finish != "budget"


def test_a_scorer_of_ones_own_steers_the_text(open_rain):
    def many(letter):
        return lambda prompt, text: min(1.0, text.count(letter) / 4) if prompt == "Why?" else math.nan

    e, t = (open_rain(scorer=many(letter), max_simulations=30).generate("Why?").text for letter in "et")
    assert e.count("e") > t.count("e")
    assert t.count("t") > e.count("t")


def test_a_scorer_may_be_async_or_return_an_awaitable(open_rain):
    def score(prompt, text):
        return len(text) % 3 - 1

    async def later(prompt, text):
        return score(prompt, text)

    class Model:
        async def __call__(self, prompt, text):
            return score(prompt, text)

    scorers = (score, later, lambda prompt, text: later(prompt, text), Model())
    assert len({decided(open_rain(scorer=scorer).generate("Why?")) for scorer in scorers}) == 1


def test_a_scorer_is_asked_once_for_each_text_and_costs_the_model_nothing(open_rain):
    texts = []
    answer = open_rain(scorer=lambda prompt, text: texts.append(text) or 0.0).generate("Why?")
    assert len(texts) == len(set(texts)) == answer.cost["evaluations"]
    assert answer.cost["evaluation"]["requests"] == 0


@pytest.mark.parametrize("value", [1.5, -1.01, math.nan, math.inf, "good", None, [1.0]])
def test_a_score_out_of_range_is_refused_by_its_value(value, open_rain):
    with pytest.raises(RainError, match=f"scorer.*{str(value)[:4]}".replace("[", r"\[")):
        open_rain(scorer=lambda prompt, text: value).generate("Why?")


def test_a_template_of_ones_own_is_asked(open_rain, tmp_path):
    rain = open_rain(template=saved(tmp_path, BRIEF, "brief.txt"))
    assert rain.aligner.config.template.name == "brief.txt"
    assert rain.generate("Why?").commits != open_rain().generate("Why?").commits


def test_the_constants_may_be_given_as_a_whole_and_none_of_them_twice(engine):
    config = RainConfig(max_simulations=3, extra_simulations=2, candidates=3, max_draws=2, max_new_tokens=4)
    with Rain(engine="toy", search=config) as rain:
        assert rain.aligner.config.search == config
        assert max(commit.simulations for commit in rain.generate("Why?").commits) <= 3
    with pytest.raises(RainError, match="max_simulations"):
        Rain(engine="toy", search=config, max_simulations=3)


def test_what_is_announced_of_a_preset_is_what_is_used(open_rain, monkeypatch, capsys):
    preset = {"max_simulations": 7, "votes": "soft", "seed": 3}
    monkeypatch.setattr("rain.settings.choose_preset", lambda task, given: preset)
    for given, said in (
        ({"search": RainConfig(max_new_tokens=4)}, "votes soft, seed 3"),
        (NO_SCORE, "max-simulations 7, seed 3"),
    ):
        Rain(engine="toy", **given).close()
        assert f"preset for toy: {said} (preset none: " in capsys.readouterr().err


def test_a_read_out_must_suit_the_prompt_format_that_is_used(chat_rain, open_rain, monkeypatch):
    monkeypatch.setattr("rain.settings.READ_OUT_ENGINES", ("toy",))

    async def nothing(self, engine):
        return None

    monkeypatch.setattr(ReadOutEvaluator, "warm_up", nothing)
    file_format = prompt_format(make_settings(load("hh"), {"engine": "toy"}).aligner.prompt_file)
    for learnt_in in (CHAT_FORMAT, file_format):
        file = ReadOutFile("kind", "toy", learnt_in, 1, (1.0,), 0.0)
        monkeypatch.setattr(ReadOutFile, "load", lambda name, model, file=file: file)
        for given, used in (({}, CHAT_FORMAT), ({"chat_template": False}, file_format)):
            if learnt_in == used:
                open_rain(evaluator=("readout:kind",), **given)
            else:
                with pytest.raises(RainError, match="prompt format"):
                    open_rain(evaluator=("readout:kind",), **given)


def test_goals_and_tasks_choose_template_and_rules(open_rain):
    assert open_rain().aligner.config.task.name == open_rain(goal="harmless").aligner.config.task.name == "hh"
    negative = open_rain(goal="negative", **NO_SCORE).aligner.config
    assert (negative.task.name, negative.evaluation.target, negative.evaluation.invert) == ("imdb", "negative", True)
    assert open_rain(task="truth", **NO_SCORE).aligner.config.task.to_end
    for wrong, named in (
        ({"goal": "rude"}, "rude"),
        ({"task": "x"}, "'x'"),
        ({"goal": "positive", "task": "hh"}, "both"),
        ({"goal": "positive", "target": "negative"}, "target 'negative'"),
        ({"goal": "harmless", "target": "kind"}, "target 'kind'"),
    ):
        with pytest.raises(RainError, match=named):
            open_rain(**wrong)


def test_a_preflight_measures_labelled_texts(rain, tmp_path):
    found = rain.preflight()
    assert found.texts > 20
    assert 0 <= found.accuracy <= 1
    path = tmp_path / "two.jsonl"
    path.write_text('{"question": "a", "response": "b", "label": true}\n')
    with pytest.raises(RainError, match="label"):
        rain.preflight(path)


def test_a_preflight_measures_a_function_too(open_rain):
    lines = (Path(__file__).parents[2] / "HH" / "labelled.jsonl").read_text().splitlines()
    known = {f" {row['response'].strip()}" for row in map(json.loads, lines) if row["label"]}
    found = open_rain(scorer=lambda prompt, text: 0.5 if text in known else -0.5).preflight()
    assert (found.auc, found.accuracy, found.label_mass) == (1, 1, None)
    assert found.by_length["4"]["auc"] == 0.5, "no text of four tokens is one of them"


def test_a_preflight_of_the_second_target_reads_the_labels_as_they_are(open_rain, tmp_path):
    asked, texts = saved(tmp_path, BRIEF, "words.txt"), load("imdb").path("labelled.jsonl")
    positive, negative = (open_rain(goal=goal, template=asked).preflight(texts) for goal in ("positive", "negative"))
    assert (positive.accuracy, positive.auc) == (negative.accuracy, negative.auc)


def test_lists_show_a_bar_where_wanted(open_rain, capsys):
    open_rain(progress=True).generate(QUESTIONS)
    assert "3/3" in capsys.readouterr().err
    open_rain().generate(QUESTIONS)
    assert capsys.readouterr().err == ""


def test_at_most_so_many_searches_run_at_once(open_rain, engine):
    running = []

    def scorer(prompt, text):
        running.append(engine.active)
        return 0.0

    open_rain(scorer=scorer, concurrency=2).generate(list("abcde"))
    with pytest.raises(RainError, match="concurrency"):
        open_rain(concurrency=0)
    assert max(running) == 2


@pytest.mark.parametrize("raised", [StopIteration, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("waits", [False, True])
def test_whatever_a_scorer_raises_is_an_error_of_the_prompt(open_rain, raised, waits):
    def scorer(prompt, text):
        raise raised("no key")

    async def waiting(prompt, text):
        raise raised("no key")

    with pytest.raises((RainError, RuntimeError), match=raised.__name__):  # Python turns a coroutine's StopIteration
        open_rain(scorer=waiting if waits else scorer).generate("Why?")


def test_the_seconds_of_a_budget_end_an_answer_whose_scorer_does_not(open_rain):
    async def stuck(prompt, text):
        await asyncio.Event().wait()

    assert open_rain(scorer=stuck).generate("Why?", budget=Budget(seconds=0.1)).finish == "budget"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"budget": Budget(tokens=10)}, "budget"),
        ({"search": {"candidates": 3}}, "search"),
        ({"concurrency": "8"}, "concurrency"),
        ({"max_new_tokens": "12"}, "max-new-tokens"),
        ({"method": "best-of-n", "n": 2.5}, "--n"),
        ({"evaluator": ()}, "--evaluator"),
        ({"seed": None}, "--seed"),
        ({"scorer": 3}, "scorer"),
        ({"scorer": lambda prompt, text: 0.0, "evaluator": "random"}, "scorer and evaluator"),
        ({"goal": ""}, "goal"),
        ({"trace": True}, "trace"),
        ({"outdir": "out"}, "outdir"),
    ],
)
def test_a_setting_of_a_wrong_kind_is_refused_at_once(open_rain, settings, named):
    with pytest.raises(RainError, match=named):
        open_rain(**settings)


@pytest.mark.parametrize("options", [{"stop": 3}, {"stop": [None]}, {"question": 3}, {"trace": 3}, {"raw": "yes"}])
def test_an_option_of_a_wrong_kind_is_refused(rain, options):
    with pytest.raises(RainError, match=next(iter(options))):
        rain.generate("Why?", **options)


@pytest.mark.parametrize("model", [3, object(), None])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(RainError, match="model"):
        Rain(model)
