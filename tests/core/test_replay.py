"""The golden traces: whole searches of the published code are rebuilt, and every way to break a trace is noticed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rain.cli import main

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = sorted(FOLDER.glob("*.json"))
SHORT = FOLDER / "short_eos.json"


def replay(path, capsys):
    code = main(["replay", str(path)])
    return code, capsys.readouterr()


def tampered(folder, change):
    trace = json.loads(SHORT.read_text())
    change(trace)
    path = folder / "trace.json"
    path.write_text(json.dumps(trace))
    return path


def test_there_are_five_golden_traces():
    names = "adversarial_tries minimum_visits_16 node_addition short_eos similarity"
    assert [path.stem for path in GOLDEN] == names.split()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_trace_is_searched_again_with_the_same_commits_simulations_and_nodes(path, capsys):
    code, said = replay(path, capsys)
    trace = json.loads(path.read_text())
    moves = [move for move in trace["moves"] if move["committed"] is not None]
    nodes = sum(len(move["tree"]) for move in moves)
    assert code == 0 and said.err == ""
    counted = f"{len(moves)} commits, {trace['simulations']} simulations, {nodes} nodes"
    assert f"{path}: equal: {counted}, largest float difference " in said.out
    difference = float(said.out.split("largest float difference ")[1].split(",")[0])
    assert difference < 1e-5


def test_lazy_expansion_asks_for_fewer_expansions_than_were_recorded(capsys):
    for path in GOLDEN:
        _, said = replay(path, capsys)
        requested, recorded = map(int, re.search(r"(\d+) of (\d+) expansions", said.out).groups())
        assert requested < recorded == len(json.loads(path.read_text())["calls"]["expand"])


TAMPERINGS = {
    "value": lambda trace: trace["moves"][1]["tree"][2].update(q=trace["moves"][1]["tree"][2]["q"] + 1e-3),
    "visits": lambda trace: trace["moves"][0]["tree"][0].update(visits=99),
    "n": lambda trace: trace["moves"][-1]["tree"][0].update(n=trace["moves"][-1]["tree"][0]["n"] + 2e-5),
    "prior": lambda trace: trace["moves"][0]["children"][3].update(prior=0.5),
    "child order": lambda trace: trace["moves"][0]["children"].reverse(),
    "missing child": lambda trace: trace["moves"][0]["children"].pop(),
    "missing node": lambda trace: trace["moves"][0]["tree"].pop(),
    "committed": lambda trace: trace["moves"][0].update(committed=[13]),
    "simulations of a move": lambda trace: trace["moves"][0].update(simulations=3),
    "root visits": lambda trace: trace["moves"][2].update(root_visits=1),
    "simulations": lambda trace: trace.update(simulations=trace["simulations"] + 1),
    "output": lambda trace: trace["output"].append(5),
    "a move fewer": lambda trace: trace["moves"].pop(),
    "no expansions": lambda trace: trace["calls"]["expand"].clear(),
    "no scores": lambda trace: trace["calls"]["evaluate"].clear(),
    "no embeddings": lambda trace: trace["calls"]["embed"].clear(),
    "scores": lambda trace: [call.update(value=-call["value"]) for call in trace["calls"]["evaluate"][:4]],
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_trace_that_was_tampered_with_is_reported_with_exit_code_1(what, tmp_path, capsys):
    code, said = replay(tampered(tmp_path, TAMPERINGS[what]), capsys)
    assert (code, said.err) == (1, "")
    assert f"{tmp_path / 'trace.json'}: DIFFERS: " in said.out and said.out.count("\n") == 1
    assert re.search("; (after )?commit|; the recording ends|; the search ended|simulations were recorded", said.out)


def test_one_difference_among_many_traces_is_enough_for_exit_code_1(tmp_path, capsys):
    wrong = tampered(tmp_path, TAMPERINGS["output"])
    assert main(["replay", str(SHORT), str(wrong), str(SHORT)]) == 1
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["equal", "DIFFERS", "equal"]


TEXTS = (b"{", b"{}", b"[]", b"3", b'"moves output prompt calls config simulations"', b"[" * 200_000, b"\xff\xfe\x00")
LACKS = {
    "calls": lambda trace: trace.pop("calls"),
    "a setting": lambda trace: trace["config"].pop("maxT"),
    "embeddings": lambda trace: trace["calls"].pop("embed"),
    "a tree": lambda trace: trace["moves"][0].pop("tree"),
    "moves": lambda trace: trace.update(moves=5),
    "range": lambda trace: trace["config"].update(maxT=-1),
}
WRONG = {
    "scores": lambda trace: trace["calls"].update(evaluate=3),
    "a move": lambda trace: trace.update(moves=[1]),
    "children": lambda trace: trace["moves"][0].update(children=None),
    "a setting": lambda trace: trace["config"].update(maxT="a"),
    "a value": lambda trace: trace["moves"][0]["children"][0].update(q="x"),
    "a prior": lambda trace: [call.update(greedy_raw_prob=-1) for call in trace["calls"]["expand"]],
    "candidates": lambda trace: [call.update(candidates=[[]]) for call in trace["calls"]["expand"]],
    "a score": lambda trace: [call.update(value=10**400) for call in trace["calls"]["evaluate"]],
}


@pytest.mark.parametrize("what", [*TEXTS, *LACKS], ids=lambda what: str(what)[:9])
def test_a_file_that_is_no_whole_trace_ends_with_one_sentence_and_exit_code_2(what, tmp_path, capsys):
    path = tmp_path / "trace.json"
    tampered(tmp_path, LACKS[what]) if what in LACKS else path.write_bytes(what)
    code, said = replay(path, capsys)
    assert code == 2 and (what in LACKS or (said.out == "" and str(path) in said.err))
    assert said.err.startswith("rain: error: ") and said.err.count("\n") == 1


@pytest.mark.parametrize("what", WRONG)
def test_a_field_with_a_wrong_value_ends_with_one_sentence_that_names_the_file(what, tmp_path, capsys):
    path = tampered(tmp_path, WRONG[what])
    code, said = replay(path, capsys)
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"rain: error: the trace {path} has a field with a wrong value (")


def test_a_missing_file_is_reported(tmp_path, capsys):
    code, said = replay(tmp_path / "none.json", capsys)
    assert code == 2 and "none.json" in said.err
