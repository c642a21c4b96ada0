"""From verdicts and records to numbers: rates with intervals, paired tests, pairwise wins, cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rain.judges.base import Decision
from rain.judges.queries import SIDES, Run, queries_for
from rain.judges.scoring import read_scores
from rain.report.paper import paper_figures
from rain.results.jsonl import scan
from rain.stats import mcnemar, ratio, wilson

Json = dict[str, Any]

COSTS = ("forward_passes", "tokens_computed", "tokens_reused", "simulations", "evaluations", "seconds")
"""The counters of a record's cost; simulations and evaluations are RAIN's alone."""

MISSING = "missing"
"""Stands for a query that was never put to the judge."""


class Judged(NamedTuple):
    """One judge's verdicts about a run: by ask, the wording's version and the decisions by (record id, answer)."""

    judge: str
    versions: dict[str, str]
    decisions: dict[str, dict[tuple[str, str], Decision]]
    other_versions: dict[str, int]


def read_judged(run: Run) -> list[Judged]:
    """Return the verdicts in scores_*.jsonl about the answers as they are now, by judge.

    Of several wordings of a question only the one asked last counts; verdicts of the others are counted and left out.
    """
    digests = {(query.record, query.answer, query.ask): query.digest for query in _queries(run)}
    found = []
    for path in sorted(run.outdir.glob("scores_*.jsonl")):
        for judge in dict.fromkeys(str(line.record.get("judge")) for line in scan(path).lines):
            found.append(_judged(path, judge, digests))
    return found


def _queries(run: Run) -> Iterable[Any]:
    return (query for record in run.records for query in queries_for(run.task, record))


def _judged(path: Path, judge: str, digests: Mapping[tuple[str, str, str], str]) -> Judged:
    scores = read_scores(path, judge)
    lines = [line.record for line in scan(path).lines if line.record.get("judge") == judge]
    last = {str(line["ask"]): str(line["version"]) for line in lines}
    kept = Judged(judge, last, {ask: {} for ask in last}, dict.fromkeys(last, 0))
    for key, decision in scores.items():
        if digests.get((key.record, key.answer, key.ask)) != key.digest:
            continue
        if key.version == last[key.ask]:
            kept.decisions[key.ask][key.record, key.answer] = decision
        else:
            kept.other_versions[key.ask] += 1
    return kept


def share(outcomes: Sequence[Any]) -> Json:
    """Return {yes, of, rate, low, high, null, open} of outcomes True, False, None (unreadable) or MISSING.

    rate and its Wilson 95 % interval are shares of the readable ones, in [0, 1]; rate is None where there are none.
    """
    yes, no = outcomes.count(True), outcomes.count(False)
    low, high = wilson(yes, yes + no)
    rate = yes / (yes + no) if yes + no else None
    counts = {"null": outcomes.count(None), "open": outcomes.count(MISSING)}
    return {"yes": yes, "of": yes + no, "rate": rate, "low": low, "high": high, **counts}


def score_row(metric: str, judge: str, versions: str, outcomes: Mapping[str, list[Any]], better: str) -> Json:
    """Return one row of a report: RAIN's share, the plain one, and the paired McNemar test over the common records.

    outcomes: by side ("raina", "pa") one outcome per record, in the same order.
    """
    rain, plain = outcomes["raina"], outcomes["pa"]
    pairs = [(a, b) for a, b in zip(rain, plain, strict=True) if isinstance(a, bool) and isinstance(b, bool)]
    rain_only, plain_only = pairs.count((True, False)), pairs.count((False, True))
    return {
        "metric": metric,
        "judge": judge,
        "version": versions,
        "better": better,
        "rain": share(rain),
        "plain": share(plain),
        "pairs": len(pairs),
        "difference": (rain_only - plain_only) / len(pairs) if pairs else None,
        "rain_only": rain_only,
        "plain_only": plain_only,
        "p": mcnemar(rain_only, plain_only) if pairs else None,
    }


def score_rows(run: Run, judged: Sequence[Judged], paper: Mapping[str, Any]) -> list[Json]:
    """Return the rows of every judge, then True+Info of those that decide both, or of two that share the work."""
    rows = []
    for one in judged:
        for ask in (ask for ask in one.decisions if ask != "pairwise"):
            metric, read = _metric(run, ask)
            outcomes = {side: [read(value) for value in _side(run, one, ask, side)] for side in SIDES}
            better = "lower" if metric == "attack" else "higher"
            rows.append(score_row(metric, one.judge, one.versions[ask], outcomes, better))
            rows[-1]["other_versions"] = one.other_versions[ask]
    rows += [_true_info(run, first, second) for first, second in _truth_pairs(judged)]
    for row in rows:
        row["paper"] = [figure._asdict() for figure in paper_figures(paper, run.task, row["metric"], model_name(run))]
    return rows


def model_name(run: Run) -> str:
    """Return the name of the model that wrote the answers."""
    return next((str(record["model"]) for record in run.records if record.get("model")), "unknown")


def target(run: Run) -> str | None:
    """Return the sentiment that an imdb run steers to, None for the other tasks."""
    if run.task != "imdb":
        return None
    configured = run.config.get("run", {}).get("target") or "positive"
    return next((str(record["target"]) for record in run.records if record.get("target")), str(configured))


def _metric(run: Run, ask: str) -> tuple[str, Callable[[Any], Any]]:
    """Return the name of what is counted, and how an outcome of the ask counts."""
    if ask != "sentiment":
        return ask, lambda value: value
    if target(run) == "negative":
        return "negative", lambda value: not value if isinstance(value, bool) else value
    return "positive", lambda value: value


def _side(run: Run, judged: Judged, ask: str, side: str) -> list[Any]:
    decisions = judged.decisions[ask]
    has = [isinstance(record.get(side), str) for record in run.records]
    ids = [record["id"] for record in run.records]
    return [decisions.get((key, side), MISSING) if there else "" for key, there in zip(ids, has, strict=True)]


def _truth_pairs(judged: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    both = [(one, one) for one in judged if {"true", "info"} <= one.decisions.keys()]
    true = [one for one in judged if "true" in one.decisions and "info" not in one.decisions]
    info = [one for one in judged if "info" in one.decisions and "true" not in one.decisions]
    return both + [(first, second) for first in true for second in info]


def _true_info(run: Run, first: Judged, second: Judged) -> Json:
    outcomes: dict[str, list[Any]] = {}
    for side in SIDES:
        pairs = zip(_side(run, first, "true", side), _side(run, second, "info", side), strict=True)
        outcomes[side] = [_both(a, b) for a, b in pairs]
    name = first.judge if first is second else f"{first.judge} + {second.judge}"
    row = score_row("true_info", name, f"{first.versions['true']} {second.versions['info']}", outcomes, "higher")
    return {**row, "other_versions": 0}


def _both(a: Any, b: Any) -> Any:
    """Return whether both hold; what is unreadable or missing in either stays so, also beside a known False.

    Counting only the known False would lower the rate: the records that would have held drop out.
    """
    return next((value for value in (a, b) if not isinstance(value, bool)), a and b)


def pairwise_rows(run: Run, judged: Sequence[Judged], paper: Mapping[str, Any]) -> list[Json]:
    """Return win / lose / tie of RAIN against plain per judge; orders that disagree make a tie, an unreadable one null.

    win_rate is the share of wins among the pairs that are no tie, with its Wilson interval and exact sign test.
    """
    rows = []
    for one in (one for one in judged if "pairwise" in one.decisions):
        results = [pair_result(one.decisions["pairwise"], record["id"]) for record in run.records]
        win, lose = results.count("win"), results.count("lose")
        low, high = wilson(win, win + lose)
        counts = {name: results.count(name) for name in ("win", "lose", "tie", "null", "open")}
        rate = win / (win + lose) if win + lose else None
        figures = [figure._asdict() for figure in paper_figures(paper, run.task, "pairwise", model_name(run))]
        numbers = {"win_rate": rate, "low": low, "high": high, "p": mcnemar(win, lose), "paper": figures}
        rows.append({"judge": one.judge, "version": one.versions["pairwise"], **counts, **numbers})
    return rows


def pair_result(decisions: Mapping[tuple[str, str], Decision], record: str) -> str:
    """Return win, lose, tie, null or open for one record from the verdicts of both orders."""
    orders = ("raina,pa", "pa,raina")
    if any((record, order) not in decisions for order in orders):
        return "open"
    ahead, behind = (decisions[record, order] for order in orders)
    if ahead is None or behind is None:
        return "null"
    return {("first", "second"): "win", ("second", "first"): "lose"}.get((str(ahead), str(behind)), "tie")


def cost(run: Run, paper: Mapping[str, Any]) -> Json:
    """Return totals and means per prompt of each side's counters, and RAIN's ratios to each other side.

    Ratios are of sums over the records that have both numbers, with 95 % intervals.
    """
    costs = [record["cost"] for record in run.records if isinstance(record.get("cost"), dict)]
    sides = list(dict.fromkeys(side for one in costs for side in one))
    totals = {side: _totals([one[side] for one in costs if one.get(side)]) for side in sides}
    ratios: Json = {}
    for side in (side for side in sides if side != "rain"):
        both = [(one["rain"], one[side]) for one in costs if one.get("rain") and one.get(side)]
        for name in ("tokens_computed", "forward_passes", "seconds"):
            known = [(a[name], b[name]) for a, b in both if name in a and name in b]
            found = ratio([a for a, _ in known], [b for _, b in known])
            if found:
                ratios.setdefault(side, {})[name] = found._asdict()
    figures = [figure._asdict() for figure in paper_figures(paper, run.task, "seconds", model_name(run))]
    return {"prompts": len(costs), "sides": totals, "ratios": ratios, "paper": figures}


def _totals(costs: Sequence[Mapping[str, Any]]) -> Json:
    numbers: Json = {}
    for name in COSTS:
        known = [float(one[name]) for one in costs if name in one]
        if known:
            numbers[name] = {"total": sum(known), "mean": sum(known) / len(known)}
    return numbers
