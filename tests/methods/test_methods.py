"""Methods beside the search: what is drawn, chosen, counted and recorded, and what ends them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from support.commands import QUICK, allocate
from support.tiny_task import decisions, make_task, prompts, records
from support.watched import WatchedEngine

from rain.aligner import Aligner
from rain.core.config import Budget
from rain.core.errors import RainError
from rain.engines.toy import ToyEncoder, ToySession, ToyTokenizer
from rain.evaluators.function import FunctionEvaluator
from rain.methods.config import METHODS
from rain.methods.whole_answers import WHOLE_ANSWERS
from rain.plain import PIECE
from rain.results.run_dir import iter_results, read_config
from rain.settings import make_settings

OTHERS = [name for name in METHODS if name != "rain"]
QUESTIONS = ["Why?", "Is the sea salty?", "How do I repair a bicycle?", "What is kind?"]
AIM = "kind to <everybody>"


def share_of_a(prompt, text):
    return min(1.0, 4 * text.strip().count("A") / max(1, len(text.strip())) - 0.5)


def open_aligner(folder, engine=None, scorer=share_of_a, **given):
    config = make_settings(make_task(folder, aim=AIM), {"max_new_tokens": 40, **given}).aligner
    engine = engine or WatchedEngine()
    return Aligner(config, engine, ToyTokenizer(), ToyEncoder(), evaluator=FunctionEvaluator(scorer))


def decided(record):
    return {**decisions(record), "drafts": [(draft["text"], draft["value"]) for draft in record["drafts"]]}


def one(aligner, question="Why?", budget=None):
    return asyncio.run(aligner.generate(aligner.prepare("p", question), budget=budget))


@pytest.fixture
def asked(monkeypatch):
    """What the model is asked, with its answers: (text, params, continuations)."""
    seen, generate = [], ToySession.generate

    async def watch(self, prefix, params):
        found = await generate(self, prefix, params)
        seen.append((ToyTokenizer().decode(prefix), params, found))
        return found

    monkeypatch.setattr(ToySession, "generate", watch)
    return seen


def test_every_method_has_a_record_with_its_answer_its_drafts_and_its_cost(tmp_path):
    for method in OTHERS:
        engine = WatchedEngine()
        [record] = records(open_aligner(tmp_path, engine, method=method), prompts("Why?"))
        assert "error" not in record, record
        drafts, cost = record["drafts"], record["cost"]["rain"]
        assert (record["method"], record["moves"]) == (method, [])
        assert (record["raina"], record["value"]) in [(draft["text"], draft["value"]) for draft in drafts]
        assert all(draft["value"] == round(share_of_a("", draft["text"]), 6) for draft in drafts)
        assert cost["simulations"] == len(drafts)
        assert drafts[-1]["tokens_computed"] == cost["tokens_computed"]
        assert all(a["tokens_computed"] < b["tokens_computed"] for a, b in pairwise(drafts))
        assert all(a["seconds"] <= b["seconds"] for a, b in pairwise(drafts))
        assert engine.active == 0


def test_the_greedy_method_answers_as_plain_decoding_does_and_costs_the_same(tmp_path):
    for record in records(open_aligner(tmp_path, method="greedy"), prompts(*QUESTIONS)):
        cost, plain = record["cost"]["rain"], record["cost"]["plain"]
        assert record["raina"] == record["pa"]
        assert (cost["tokens_computed"], cost["requests"]) == (plain["tokens_computed"], plain["requests"])
        assert cost["evaluations"] == 0, "a value that only the record needs is no cost"


@pytest.mark.parametrize("budget", [None, Budget(seconds=60)])
def test_a_timeout_of_the_scorer_is_an_error_and_not_the_end_of_the_budget(budget, tmp_path):
    def late(prompt, text):
        raise TimeoutError("the scorer's own")

    with pytest.raises(TimeoutError, match="own"):
        one(open_aligner(tmp_path, scorer=late, method="best-of-n", n=3), budget=budget)


def test_the_best_of_n_has_the_largest_value_and_the_greedy_answer_is_among_them(tmp_path):
    found = records(open_aligner(tmp_path, method="best-of-n", n=12), prompts(*QUESTIONS))
    for record in found:
        assert len(record["drafts"]) == 12
        assert record["value"] == max(draft["value"] for draft in record["drafts"])
        assert record["drafts"][0]["text"] == record["pa"]
    assert any(record["raina"] != record["pa"] for record in found)


def test_all_drafts_are_drawn_in_one_request_like_the_candidates_of_the_search(tmp_path, asked):
    given = {"method": "best-of-n", "n": 9, "top_k": 7, "candidate_temperature": 1.5}
    one(open_aligner(tmp_path, **given))
    one(open_aligner(tmp_path, **given, n_top_k=0))
    drawn = [(params.n, params.greedy_first, params.top_k, params.temperature) for _, params, _ in asked]
    assert drawn == [(9, True, 7, 1.5), (9, True, 0, 1.5)]


def test_the_first_drafts_of_a_larger_n_are_those_of_a_smaller_one(tmp_path):
    few, many = (one(open_aligner(tmp_path, method="best-of-n", n=n)).drafts for n in (3, 8))
    assert [draft.tokens for draft in few] == [draft.tokens for draft in many[:3]]
    assert len({draft.tokens for draft in many}) > 4


@pytest.mark.parametrize("budget", [Budget(seconds=60), Budget(tokens=10**6), Budget(simulations=8)])
def test_a_budget_that_is_not_reached_changes_no_draft(budget, tmp_path):
    free, limited = (one(open_aligner(tmp_path, method="best-of-n", n=8), budget=given) for given in (None, budget))
    assert [draft.tokens for draft in limited.drafts] == [draft.tokens for draft in free.drafts]


def test_what_drafts_cost_together_is_shared_by_their_lengths(tmp_path):
    aligner = open_aligner(tmp_path, method="best-of-n", n=5)
    prompt = len(aligner.prepare("p", "Why?").tokens)
    drafts, upto = one(aligner).drafts, prompt
    for draft in drafts:
        upto += len(draft.tokens)
        assert draft.tokens_computed == upto, "the toy model computes the prompt once, and then a token at a time"


def test_rejection_stops_at_the_first_value_above_the_threshold(tmp_path):
    found = records(open_aligner(tmp_path, method="rejection", n=50, value_threshold=0.0), prompts(*QUESTIONS))
    assert max(len(record["drafts"]) for record in found) > 1
    for record in found:
        values = [draft["value"] for draft in record["drafts"]]
        assert values[-1] > 0 and all(value <= 0 for value in values[:-1])
        assert record["raina"] == record["drafts"][-1]["text"] and record["finish"] != "budget"


def test_rejection_without_success_answers_with_the_best_of_its_drafts(tmp_path):
    answer = one(open_aligner(tmp_path, method="rejection", n=6, value_threshold=1.0))
    assert len(answer.drafts) == 6
    assert answer.value == max(draft.value for draft in answer.drafts)


@pytest.mark.parametrize("method", ["best-of-n", "rejection", "refine", "rain"])
@pytest.mark.parametrize("limit", [1, 3])
def test_a_budget_of_simulations_counts_drafts(limit, method, tmp_path):
    given = {"refine": {"rounds": 9}, "rain": {}}.get(method, {"n": 9, "value_threshold": 1.0})
    answer = one(open_aligner(tmp_path, method=method, budget=f"simulations={limit}", **given))
    assert (answer.finish, answer.cost["simulations"]) == ("budget", limit)
    assert answer.text or method == "rain"


@pytest.mark.parametrize("method", OTHERS)
def test_a_budget_of_tokens_ends_every_method_with_an_answer(method, tmp_path):
    whole = one(open_aligner(tmp_path, method=method))
    answer = one(open_aligner(tmp_path, method=method, budget="tokens=35"))
    assert answer.finish == "budget" and answer.text
    assert answer.cost["tokens_computed"] < whole.cost["tokens_computed"]
    prompt = len(open_aligner(tmp_path).prepare("p", "Why?").tokens)
    if method == "greedy":
        assert whole.text.startswith(answer.text)
        assert prompt + len(answer.tokens) == 35


def test_as_many_drafts_are_drawn_as_tokens_are_left_for(tmp_path):
    answer = one(open_aligner(tmp_path, method="best-of-n", n=0, budget="tokens=1500"))
    longest = max(len(draft.tokens) for draft in answer.drafts)
    assert answer.finish == "budget" and len(answer.drafts) > 10
    assert 1500 <= answer.cost["tokens_computed"] < 1500 + 4 * longest


@pytest.mark.parametrize("method", OTHERS)
def test_a_budget_of_seconds_ends_every_method_with_an_answer(method, tmp_path, monkeypatch):
    clock = iter(range(10**6))  # a second passes whenever somebody looks
    monkeypatch.setattr("rain.methods.base.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    answer = one(open_aligner(tmp_path, method=method), "Is it?", budget=Budget(seconds=2))
    assert answer.finish == "budget" and answer.text
    assert len(answer.drafts) == 1


@pytest.mark.parametrize("method", ["best-of-n", "greedy"])
def test_what_was_written_of_a_first_draft_is_the_answer_if_it_is_cut(method, tmp_path, monkeypatch):
    whole, generate, calls = one(open_aligner(tmp_path, method="greedy")), ToySession.generate, []

    async def stuck(self, prefix, params):
        calls.append(prefix)
        return await (asyncio.Event().wait() if len(calls) > 2 else generate(self, prefix, params))

    async def cut():
        aligner = open_aligner(tmp_path, method=method)
        generation = aligner.begin(aligner.prepare("p", "Why?"), budget=Budget(seconds=60))
        running = asyncio.ensure_future(generation.complete())
        while len(calls) < 3:
            await asyncio.sleep(0)
        running.cancel()
        return generation.answer()

    monkeypatch.setattr(ToySession, "generate", stuck)
    answer = asyncio.run(cut())
    assert (answer.finish, answer.tokens) == ("budget", whole.tokens[: 2 * PIECE])
    assert whole.text.startswith(answer.text)


def test_drafts_that_are_not_finished_in_time_are_given_up(tmp_path, monkeypatch):
    engine, generate, waits = WatchedEngine(), ToySession.generate, []

    async def slow(self, prefix, params):
        if not params.greedy_first:
            waits.append(params.n)
            await asyncio.Event().wait()
        return await generate(self, prefix, params)

    monkeypatch.setattr(ToySession, "generate", slow)
    answer = one(open_aligner(tmp_path, engine, method="best-of-n"), budget=Budget(seconds=0.2))
    assert (answer.finish, len(answer.drafts), waits, engine.active) == ("budget", 1, [1], 0)


def test_a_reminder_stands_around_the_question_and_the_evaluator_reads_the_question_alone(tmp_path, asked):
    judged = set()
    one(open_aligner(tmp_path, scorer=lambda prompt, _: judged.add(prompt) or 0.0, method="remind"), "Why {not}?")
    before, after = asked[0][0].split("Why {not}?")
    assert AIM in before and AIM in after and judged == {"Why {not}?"}


def test_refining_shows_the_model_its_last_answer_and_what_it_said_about_it(tmp_path, asked):
    answer = one(open_aligner(tmp_path, method="refine", rounds=2), "Why {not}?")
    texts = [ToyTokenizer().decode(found[0].tokens).strip() for _, _, found in asked]
    assert len(asked) == 5 and [draft.text for draft in answer.drafts] == [texts[0], texts[2], texts[4]]
    assert answer.text == texts[4], "the last one counts, whatever its value"
    for critique, rewrite in ((1, 2), (3, 4)):
        last = texts[critique - 1]
        assert last in asked[critique][0] and last in asked[rewrite][0]
        assert all(text in asked[rewrite][0] for text in (texts[critique], AIM, "Why {not}?"))


def test_refining_ends_where_the_context_has_no_room_for_more(tmp_path):
    engine = WatchedEngine()
    engine.context = 130
    answer = one(open_aligner(tmp_path, engine, method="refine", rounds=3))
    assert len(answer.drafts) == 1 and answer.text and answer.finish != "budget"
    with pytest.raises(RainError, match="leaves no room"):
        one(open_aligner(tmp_path, engine, method="remind"), "x" * 30)


@pytest.mark.parametrize("method", OTHERS)
def test_the_same_seed_gives_the_same_answers_whatever_the_concurrency(method, tmp_path):
    alone, beside = (
        records(open_aligner(tmp_path, method=method), prompts(*QUESTIONS), concurrency) for concurrency in (1, 4)
    )
    assert list(map(decided, alone)) == list(map(decided, beside))
    other = records(open_aligner(tmp_path, method=method, seed=1), prompts(*QUESTIONS))
    drawn = method in ("best-of-n", "rejection", "sample")
    assert drawn == ([r["drafts"][-1]["text"] for r in other] != [r["drafts"][-1]["text"] for r in alone])


def test_other_methods_can_be_streamed_and_the_whole_text_comes_at_the_end(tmp_path):
    aligner = open_aligner(tmp_path, method="best-of-n")

    async def pieces():
        return [piece.text async for piece in aligner.begin(aligner.prepare("p", "Why?")).pieces()]

    assert asyncio.run(pieces()) == [one(aligner).text]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "guess"}, "--method"),
        ({"n": 3}, "--n is for --method best-of-n or rejection, not rain"),
        ({"method": "greedy", "rounds": 3}, "--rounds is for --method refine"),
        ({"method": "greedy", "early_share": 0.1}, "--early-share is for --method rain"),
        ({"method": "best-of-n", "n": 0}, "--budget"),
        ({"method": "best-of-n", "n": 5000}, "--n is 5000"),
        ({"budget": "words=3"}, "--budget is 'words=3'"),
    ],
)
def test_settings_that_a_method_cannot_follow_are_refused(given, words, tmp_path):
    with pytest.raises(RainError, match=words):
        make_settings(make_task(tmp_path), given)


@pytest.mark.parametrize("method", ["remind", "refine"])
def test_a_method_that_tells_the_model_an_aim_needs_one_and_a_prompt_in_words(method, tmp_path):
    with pytest.raises(RainError, match="tiny has none"):
        make_settings(make_task(tmp_path), {"method": method})
    aligner = open_aligner(tmp_path, method=method)
    with pytest.raises(RainError, match="in words"):
        one(aligner, aligner.prepare("p", "Why?").tokens)


def test_a_conversation_is_reminded_in_the_users_last_message(tmp_path):
    aligner, seen = open_aligner(tmp_path, method="remind"), []
    talk = [{"role": role, "content": text} for role, text in (("user", "A"), ("assistant", "B"), ("user", "C"))]
    prepared = replace(aligner.prepare("p", "Why?"), source=talk)

    def encode(prompt):
        seen.append(prompt)
        return (65,)

    aligner.formatter.encode = encode
    asyncio.run(aligner.generate(prepared))
    first, second, last = seen[0]
    assert (first["content"], second["content"], last["role"]) == ("A", "B", "user")
    assert last["content"].index(AIM) < last["content"].index("C") < last["content"].rindex(AIM)


def test_every_method_is_either_the_search_or_writes_whole_answers():
    assert {"rain", *WHOLE_ANSWERS} == set(METHODS)


def test_records_table_and_configuration_name_the_method(tmp_path):
    done = allocate(*QUICK, "--e", 2, "--method", "best-of-n", "--n", 4, "--outdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best-of-n/greedy" in done.stdout and "per commit" not in done.stdout
    config = read_config(tmp_path)
    assert config["method"] == {"method": "best-of-n", "n": 4, "n_top_k": None, "rounds": 1, "budget": ""}
    for record in iter_results(tmp_path):
        assert (record["method"], len(record["drafts"])) == ("best-of-n", 4)
        assert record["config"] == config["hash"]
        assert set(record["drafts"][0]) == {"text", "value", "finish", "tokens_computed", "seconds"}
