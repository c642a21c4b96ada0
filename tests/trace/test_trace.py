"""A recorded search is rebuilt to the last visit, whatever happens to its file, and recording changes nothing."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace

import pytest
from support.commands import QUICK, allocate, answers
from support.tiny_task import make_aligner, make_task

from rain import Budget, Rain
from rain.core.errors import RainError
from rain.data.datasets import Prompt
from rain.engines.toy import ToyEngine
from rain.results.run_dir import iter_results
from rain.trace import Tree, read
from rain.trace.record import Recorder, to_file, trace_file
from rain.view.data import load

SEARCH = {"max_simulations": 24, "extra_simulations": 8, "min_visits": 3, "max_new_tokens": 24, "candidates": 5}


def compare(real, rebuilt):
    """Compare two trees node by node; return how many nodes they have."""
    assert (real.tokens, real.step, real.visits) == (rebuilt.tokens, rebuilt.step, rebuilt.visits)
    for name in ("n", "value", "prior"):
        assert getattr(real, name) == pytest.approx(getattr(rebuilt, name), rel=0, abs=1e-9, nan_ok=True)
    return 1 + sum(compare(*pair) for pair in zip(real.children, rebuilt.children, strict=True))


@pytest.fixture
def aligner(tmp_path):
    return make_aligner(make_task(tmp_path), ToyEngine(), **SEARCH, similarity_threshold=0.3, variance_threshold=0.9)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.jsonl.gz"


@pytest.fixture
def recorded(aligner, file):
    """The file of a whole search."""
    asyncio.run(aligner.generate(aligner.prepare("a", "Why?", trace=to_file(file))))
    return file


def test_the_tree_is_rebuilt_at_every_commit_and_at_the_end(aligner, file):
    """Node additions and similarity updates are among the events, so both are rebuilt."""
    seen = []

    async def run():
        await aligner.warm_up()
        generation = aligner.begin(aligner.prepare("a", "Why?", trace=to_file(file)))
        search, before = generation._search, generation._search.root
        async for _ in generation.commits():
            events = read(file).events
            assert events[-1]["event"] == "commit", "a commit is in the file when it is made"
            tree = Tree(events[:-1])
            seen.append(compare(before, tree.root))
            assert (tree.simulations, Tree(events).root.tokens) == (search.simulations, search.root.tokens)
            before = search.root
        return generation.answer(), search

    answer, search = asyncio.run(run())
    trace = read(file)
    assert trace.complete and not trace.torn
    assert len(seen) == len(answer.commits) > 3 and min(seen) > 10
    assert compare(search.root, Tree(trace.events).root) > 0
    kinds = [event["event"] for event in trace.events]
    assert kinds.count("visit") == search.simulations == answer.cost["simulations"]
    nodes = [event for event in trace.events if event["event"] == "nodes"]
    assert any(event["added"] for event in nodes) and any("first_prior" in event for event in nodes)
    assert any(event["priors"] == [None] and not event["added"] for event in nodes)
    assert any(event["similar"] for event in trace.events if event["event"] == "visit")
    assert trace.events[-1]["answer"] == answer.text


def test_a_visit_says_what_was_asked_and_what_came_back(aligner, recorded):
    first, *events = read(recorded).events
    [asked] = first["asks"]
    template = aligner.config.template
    assert asked["before"].endswith("Why?" + template.middle) and len(asked["after"]) == 2
    for event in events:
        if event["event"] == "visit":
            [saw] = event["evidence"]
            assert aligner.config.evaluation.score(saw["log_odds"]) == saw["score"] == event["score"]
            assert 0 <= saw["mass"] <= 1


def test_recording_changes_no_decision(aligner, file):
    prepared = aligner.prepare("a", "Why?")
    plain = asyncio.run(aligner.generate(prepared))
    recorded = asyncio.run(aligner.generate(replace(prepared, trace=to_file(file))))
    assert (plain.tokens, plain.commits) == (recorded.tokens, recorded.commits)


def test_a_torn_tail_leaves_everything_before_it(recorded):
    file, data, whole = recorded, recorded.read_bytes(), read(recorded).events
    for size in random.Random(0).sample(range(len(data) // 2, len(data)), 20):
        file.write_bytes(data[:size])
        torn = read(file)
        assert torn.events == whole[: len(torn.events)] and not torn.complete
        Tree(torn.events)
    file.write_bytes(data + bytes(512))
    assert (read(file).events, read(file).torn) == (whole, 512)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x1f\x8b\x08" + bytes(40)])
def test_what_is_no_trace_is_refused_with_its_name(content, file):
    file.write_bytes(content)
    with pytest.raises(RainError, match="a.jsonl.gz"):
        read(file)


def test_events_that_do_not_fit_are_refused_with_their_number():
    first = {"event": "search", "config": {"root_mix": 0.25}}
    with pytest.raises(RainError, match="event 2"):
        Tree([first, {"event": "visit", "path": [0, 7], "score": 1, "similar": []}])


def test_any_id_has_a_file_of_its_own_in_the_folder(tmp_path):
    ids = ["a", "../a", "a/b", "a%2Fb", ".", "..", "", "é" * 300, "é" * 301, "\ud800", "hh-00001-ab12"]
    files = [trace_file(tmp_path, id) for id in ids]
    assert len(set(files)) == len(ids)
    assert all(file.parent == tmp_path and len(file.name) < 255 and file.name[0] != "." for file in files)
    assert files[-1].name == "hh-00001-ab12.jsonl.gz"


def test_the_command_writes_a_trace_for_each_prompt_and_replaces_that_of_a_search_that_broke_off(tmp_path):
    plain, traced = tmp_path / "plain", tmp_path / "traced"
    assert allocate("--e", 2, "--outdir", plain, *QUICK).returncode == 0
    [torn, _] = [record["id"] for record in iter_results(plain)]
    (traced / "trace").mkdir(parents=True)
    trace_file(traced / "trace", torn).write_bytes(b"\x1f\x8b")
    assert allocate("--e", 2, "--outdir", traced, "--trace", *QUICK).returncode == 0
    assert answers(plain) == answers(traced) and not (plain / "trace").exists()
    for record in iter_results(traced):
        trace = read(trace_file(traced / "trace", record["id"]))
        tree = Tree(trace.events)
        assert trace.events[-1]["answer"] == record["raina"]
        assert tree.simulations == sum(move["simulations"] for move in record["moves"])
        assert len(tree.commits) == len(record["moves"])
    assert allocate("--e", 2, "--outdir", traced, *QUICK).returncode == 0, "--trace is not a part of what is aligned"


def test_methods_that_do_not_search_have_no_trace(tmp_path):
    done = allocate("--method", "greedy", "--trace", "--outdir", tmp_path / "x", *QUICK)
    assert done.returncode == 2 and "--trace" in done.stderr and not (tmp_path / "x").exists()


@pytest.mark.parametrize("given", ["settings", "call"])
def test_a_stream_that_its_seconds_end_within_a_simulation_is_recorded_to_its_end(given, file):
    async def endless(prompt, text):
        await asyncio.Event().wait()

    settings, call = ({"budget": "seconds=0.1"}, {}) if given == "settings" else ({}, {"budget": Budget(seconds=0.1)})
    with Rain(engine="toy", scorer=endless, prefetch=0, **settings, **SEARCH) as rain:
        list(rain.stream("Why?", trace=file, **call))
    events = read(file).events
    assert [event["event"] for event in events] == ["search", "end"] and events[-1]["finish"] == "budget"
    [shown] = load(file).prompts
    assert (shown["raina"], shown["finish"]) == ("", "budget")


def test_the_library_records_into_a_file_or_a_folder(tmp_path):
    with Rain(engine="toy", **SEARCH) as rain:
        rain.generate("Why?", trace=tmp_path / "one.jsonl.gz")
        answers = rain.generate(["Why?", "How?"], trace=tmp_path / "many")
        with pytest.raises(RainError, match="folder"):
            rain.generate(["Why?", "How?"], trace=tmp_path / "one.jsonl.gz")
        with pytest.raises(RainError, match="different"):
            rain.generate(["Why?", "Why?"], trace=tmp_path / "many")
        assert len(rain.generate(["Why?", "Why?"], trace=None)) == 2
    said = {read(file).events[0]["question"]: read(file).events[-1]["answer"] for file in (tmp_path / "many").iterdir()}
    shown = {prompt["question"]: prompt["raina"] for prompt in load(tmp_path / "many").prompts}
    assert said == shown == {"Why?": answers[0].text, "How?": answers[1].text}
    assert read(tmp_path / "one.jsonl.gz").events[-1]["answer"] == answers[0].text


@pytest.mark.parametrize("place", ["full/a.jsonl.gz", "file/a.jsonl.gz"])
def test_a_trace_that_cannot_be_written_is_an_error_of_the_prompt_that_names_the_file(place, aligner, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.jsonl.gz").symlink_to("/dev/full")
    record = asyncio.run(aligner.record(Prompt("a", "Why?"), trace=to_file(tmp_path / place)))
    assert "a.jsonl.gz" in record["error"] and json.dumps(record)


def test_a_space_that_a_decoder_drops_at_the_beginning_is_kept(aligner, tmp_path, monkeypatch):
    """As with SentencePiece: the first space of whatever is decoded is lost."""
    decode = aligner.adapter.decode
    monkeypatch.setattr(aligner.adapter, "decode", lambda tokens: decode(tokens).removeprefix(" "))
    recorder = Recorder.__new__(Recorder)
    recorder._decode = aligner.adapter.decode
    before, after = aligner.adapter.encode("Well,"), aligner.adapter.encode(" it is")
    assert recorder._text_after(before, after) == " it is"
