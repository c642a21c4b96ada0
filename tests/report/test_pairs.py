"""Runs against each other: joined by prompt, by hand arithmetic; and the figure of rate against cost."""

from __future__ import annotations

import json

import pytest
from matplotlib.image import imread
from support.judge_server import record, write_run
from support.reports import binary

from rain.cli import main
from rain.core.errors import RainError
from rain.report.command import build
from rain.report.figure import GREEDY, PLAIN, RAIN, colours, equal_cost, panels
from rain.report.markdown import markdown


def method_run(outdir, method, verdicts, tokens=100, first=0, **more):
    """Write an adv run of a method, with verdicts about both of its sides (every greedy answer is harmful)."""
    cost = {"rain": {"tokens_computed": tokens, "seconds": tokens / 10}, "plain": {"tokens_computed": 20, "seconds": 1}}
    named = {"method": method} if method else {}
    places = range(first, first + len(verdicts))
    write_run(outdir, "adv", [record(i, f"{outdir.name} {i}", f"b{i}", cost=cost, **named, **more) for i in places])
    binary(outdir, "attack", verdicts, [True] * len(verdicts), first=first)
    return outdir


def test_two_runs_are_compared_on_the_prompts_that_both_answered(tmp_path):
    rain = method_run(tmp_path / "rain", None, [False, False, False, True, None, True])
    best = method_run(tmp_path / "best", "best-of-n", [True, True, False, True, False], first=1)
    report = build([rain, best])
    assert [run["method"] for run in report["runs"]] == ["rain", "best-of-n"]
    [row] = report["comparisons"]
    assert (row["first"], row["second"], row["metric"], row["judge"]) == (0, 1, "attack", "openai:m")
    # shared r1..r5: rain F F T null T, best T T F T F; known r1 r2 r3 r5
    assert (row["prompts"], row["pairs"], row["first_only"], row["second_only"]) == (5, 4, 2, 2)
    assert (row["difference"], row["p"], row["low"]) == (0.0, 1.0, pytest.approx(-row["high"]))
    text = markdown(report)
    assert "## Runs of the same prompts" in text
    [line] = [line for line in text.splitlines() if f"{tmp_path}/rain (RAIN)" in line]
    assert "best (best-of-n)" in line and "4/5" in line and "2 / 2" in line
    assert "best-of-n only / greedy only" in text


def test_a_run_of_the_method_greedy_is_told_apart_from_the_greedy_answers_of_every_run(tmp_path):
    text = markdown(build([method_run(tmp_path / "limited", "greedy", [False, True])]))
    assert "pairs: greedy (method) only / greedy only" in text


def test_runs_without_a_common_judge_wording_prompt_or_task_are_not_compared(tmp_path):
    first = method_run(tmp_path / "first", None, [True])
    others = [method_run(tmp_path / "far", None, [True], first=7)]
    for name, options in (("judge", {"judge": "openai:other"}), ("wording", {"wording": 2})):
        others.append(write_run(tmp_path / name, "adv", [record(0, "a", "b")]))
        binary(others[-1], "attack", [True], [True], **options)
    others.append(write_run(tmp_path / "task", "hh", [record(0, "a", "b")]))
    binary(others[-1], "harmless", [True], [True])
    assert all(build([first, other])["comparisons"] == [] for other in others)


def test_the_figure_joins_the_runs_of_a_method_in_order_of_cost(tmp_path):
    runs = [
        method_run(tmp_path / "n16", "best-of-n", [False, True, True, True], 1600),
        method_run(tmp_path / "n4", "best-of-n", [True, True, True, True], 400),
        method_run(tmp_path / "rain", None, [False, False, True, True], 900),
    ]
    report = build(runs)
    [((task, metric, judge), counters)] = panels(report["runs"]).items()
    assert (task, metric, judge) == ("adv", "attack", "openai:m")
    found = [(point.method, point.cost, point.rate) for point in counters["tokens_computed"]]
    assert sorted(found) == [("RAIN", 900, 0.5), ("best-of-n", 400, 1.0), ("best-of-n", 1600, 0.75), (GREEDY, 20, 1.0)]
    assert [point.cost for point in counters["seconds"]] == [90, 40, 160, 1], "by name, then cost"
    low, high = next(point[3:] for point in counters["tokens_computed"] if point.cost == 1600)
    assert low < 0.75 < high


def test_runs_with_other_evaluators_are_told_apart(tmp_path):
    runs = [method_run(tmp_path / name, "best-of-n", [True, False]) for name in ("learnt", "random", "whole")]
    guides = [("readout:kind 0123", None), ("random:1", None), ("random:1", 0)]
    for run, (evaluator, top_k) in zip(runs, guides, strict=True):
        config = {"task": "adv", "evaluators": [evaluator], "method": {"n_top_k": top_k}}
        (run / "config.json").write_text(json.dumps({"hash": "0123", "aligner": config}))
    report = build(runs)
    names = ["best-of-n, readout:kind", "best-of-n, random:1", "best-of-n, random:1, whole vocabulary"]
    [counters] = panels(report["runs"]).values()
    assert {point.method for point in counters["seconds"]} == {*names, GREEDY}
    text = markdown(report)
    assert all(name in text for name in names)
    assert ", guided by random:1, whole vocabulary" in text


def test_rain_and_the_greedy_baseline_have_the_colours_of_figs_and_no_two_methods_the_same():
    found = colours(["RAIN, readout:a", "RAIN, random:1", "best-of-n, readout:a", GREEDY])
    assert (found["RAIN, readout:a"], found[GREEDY], len(set(found.values()))) == (RAIN, PLAIN, 4)
    assert RAIN not in colours(["best-of-n", GREEDY]).values()


def test_the_command_writes_the_figure(tmp_path):
    run, file = method_run(tmp_path / "run", None, [True] * 59 + [False]), tmp_path / "equal_cost.png"
    assert main(["report", str(run), "--figure", str(file)]) == 0
    assert imread(file).shape[1] > 1000


def test_there_is_no_figure_without_costs(tmp_path):
    run = write_run(tmp_path / "run", "adv", [record(0, "a", "b")])
    binary(run, "attack", [True], [True])
    with pytest.raises(RainError, match="nothing to draw"):
        equal_cost(build([run])["runs"])
