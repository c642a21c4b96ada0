"""What `rain export` writes, read by the library that training programs read it with."""

from __future__ import annotations

import json
import re

import pytest
from support.commands import QUICK
from support.judge_server import record, write_run
from support.reports import binary, write_scores
from support.tiny_task import ROOT

from rain import Rain
from rain.cli import main
from rain.engines.toy import ToyTokenizer
from rain.export.siblings import sibling_pairs
from rain.stopping import TextStopPolicy
from rain.text import TokenizerAdapter
from rain.trace import Tree, read

SEARCHED = {"moves": [{"text": " I", "value": -0.5}, {"text": " can't, so", "value": 0.75}]}
DRAFTS = [{"text": "Worst.", "value": -0.5}, {"text": "Best.", "value": 0.5}, {"text": "Unknown.", "value": None}]


@pytest.fixture
def run(tmp_path):
    records = [record(0, "I can't", "Sure."), record(1, "Bad.", "Good."), record(2, "Same.", "Same.")]
    records[0] |= SEARCHED
    records[1] |= {"drafts": DRAFTS, "value": 0.5}
    return write_run(tmp_path / "run", "hh", records)


def export(run, name, *flags):
    """Export; return the rows as `datasets` reads them."""
    datasets = pytest.importorskip("datasets")
    file = run.parent / f"{name}.jsonl"
    assert main(["export", str(run), "--format", name, "--out", str(file), *flags]) == 0
    found = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(run.parent / "cache"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert list(found) == rows
    return rows


def texts(row, *names):
    """Return the contents of messages, whose roles are checked."""
    for name in names:
        [message] = row[name]
        assert message["role"] == ("user" if name == "prompt" else "assistant")
    return tuple(row[name][0]["content"] for name in names)


def test_the_values_of_the_run_label_answers_steps_and_drafts(run):
    unpaired = export(run, "trl-unpaired")
    assert [(*texts(row, "prompt", "completion"), row["label"]) for row in unpaired] == [
        ("What now?", "I can't", True), ("What now?", "Bad.", True)
    ]  # fmt: skip
    assert [row["label"] for row in export(run, "trl-unpaired", "--threshold", "0.6")] == [True, False]
    assert [texts(row, "completion") for row in export(run, "sft", "--threshold", "0.6")] == [("I can't",)]
    assert [texts(row, "chosen", "rejected") for row in export(run, "trl-preference")] == [("Best.", "Worst.")]
    [steps] = export(run, "trl-stepwise")
    assert steps == {"prompt": "What now?", "completions": ["I", " can't"], "labels": [False, True]}


def test_the_verdicts_of_a_judge_label_answers_instead(run):
    binary(run, "harmless", [False, True, True], [True, True, None])
    binary(run, "helpful", [True, True, True], [True, True, True])
    judge = ("--judge", "openai:m", "--criterion", "harmless")
    assert [texts(row, "chosen", "rejected") for row in export(run, "trl-preference", *judge)] == [("Sure.", "I can't")]
    labels = [(*texts(row, "completion"), row["label"]) for row in export(run, "trl-unpaired", *judge)]
    assert labels == [("I can't", False), ("Sure.", True), ("Bad.", True), ("Good.", True), ("Same.", True)]
    assert [texts(row, "completion") for row in export(run, "sft", *judge)] == [("Bad.",), ("Same.",)]


def test_a_judge_of_pairs_makes_pairs(run):
    orders = {"raina,pa": ["first", "second", "tie"], "pa,raina": ["second", "first", "tie"]}
    verdicts = {(f"r{i}", order, "pairwise"): given[i] for order, given in orders.items() for i in range(3)}
    write_scores(run, verdicts)
    rows = export(run, "trl-preference", "--judge", "openai:m")
    assert [texts(row, "chosen", "rejected") for row in rows] == [("I can't", "Sure."), ("Good.", "Bad.")]


def test_scores_for_inspect_have_the_fields_that_it_reads_and_each_id_once(run):
    binary(run, "harmless", [False, True, None], [True, True, True])
    rows = export(run, "inspect", "--judge", "openai:m")
    assert rows[0] == {"id": "r0", "value": 0, "answer": "I can't", "explanation": "openai:m, harmless"}
    assert [(row["id"], row["value"]) for row in rows] == [("r0", 0), ("r1", 1)]
    assert [row["answer"] for row in export(run, "inspect", "--judge", "openai:m", "--side", "pa")][:1] == ["Sure."]


def test_an_attack_that_succeeds_is_bad_and_a_review_continues_its_opening(tmp_path):
    adv = write_run(tmp_path / "adv", "adv", [record(0, "No.", "Yes.")])
    binary(adv, "attack", [False], [True])
    [pair] = export(adv, "trl-preference", "--judge", "openai:m")
    assert texts(pair, "chosen", "rejected") == ("No.", "Yes.")
    imdb = write_run(tmp_path / "imdb", "imdb", [record(0, "great", "bad", "The film was", **SEARCHED)])
    binary(imdb, "sentiment", [True], [False])
    [pair] = export(imdb, "trl-preference", "--judge", "openai:m")
    assert pair == {"prompt": "The film was", "chosen": " great", "rejected": " bad"}


def test_siblings_of_recorded_searches_give_pairs(tmp_path):
    outdir = tmp_path / "out"
    settings = [*QUICK, "--e", "2", "--trace", "--outdir", str(outdir)]
    assert main(["run", "hh", "--dataset", str(ROOT / "HH" / "demo.jsonl"), *settings]) == 0
    rows = export(outdir, "trl-preference", "--margin", "0.01")
    found = [one for file in sorted((outdir / "trace").glob("*.gz")) for one in sibling_pairs(file)]
    expected = [one for one in found if one.chosen_value - one.rejected_value >= 0.01]
    assert [texts(row, "chosen", "rejected") for row in rows] == [
        (one.chosen.lstrip(), one.rejected.lstrip()) for one in expected
    ]


@pytest.mark.parametrize("limit", [5, 24, 60])
def test_pairs_end_where_answers_end(limit, tmp_path):
    """At the end of the text, in front of a stop string, and nowhere where the limit cuts a token set."""
    policy, ended = TextStopPolicy(TokenizerAdapter(ToyTokenizer()), ("B", "Ao")), set()
    search = {"max_simulations": 12, "extra_simulations": 6, "min_visits": 2, "candidates": 5, "max_new_tokens": limit}
    with Rain(engine="toy", **search) as rain:
        for seed in range(12):
            file = tmp_path / f"{seed}.jsonl.gz"
            answer, made = rain.generate("Why?", seed=seed, stop=["B", "Ao"], trace=file), list(sibling_pairs(file))
            tree, events, expected, tokens = Tree(), read(file).events, [], ()
            for event in events:
                if event["event"] == "commit":
                    chosen = tree.nodes[event["node"]]
                    others = [node for node in tree.root.children if node is not chosen and node.visits]
                    worst = min(others, key=lambda node: node.value, default=chosen)
                    both = [tokens + node.tokens for node in (chosen, worst)]
                    one, other = map(policy.text, both)
                    ended |= set(map(policy.finish, both))
                    if max(map(len, both)) <= limit and one.strip() != other.strip() and one.strip() and other.strip():
                        expected.append((one, other, chosen.value, worst.value))
                    tokens += chosen.tokens
                tree.apply(event)
            assert made == expected
            assert all(answer.text.startswith(one.chosen.strip()) for one in made)
    assert limit == 5 or ended == {None, "eos", "stop"}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--format", "inspect"], "--judge"),
        (["--format", "sft", "--judge", "openai:n"], r"there are: openai:m \(harmless\); openai:m \(helpful\)"),
        (["--format", "sft", "--judge", "openai:m"], "--criterion"),
        (["--format", "sft", "--threshold", "0.9"], "no answer is good"),
        (["--format", "trl-preference", "--margin", "1.5"], "--margin"),
    ],
)
def test_bad_input_ends_with_a_sentence_and_no_file(run, capsys, flags, named):
    binary(run, "harmless", [True], [True])
    binary(run, "helpful", [True], [True])
    assert main(["export", str(run), "--out", str(run.parent / "x.jsonl"), *flags]) == 2
    assert re.search(named, capsys.readouterr().err)
    assert not (run.parent / "x.jsonl").exists()
