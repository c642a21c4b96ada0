"""From verdicts and records to numbers: rates with intervals, paired tests, pairwise wins, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from rain.costs import cost_of
from rain.judges.base import Decision
from rain.judges.queries import SIDES, Run, queries_for
from rain.judges.scoring import read_scores
from rain.report.paper import paper_figures
from rain.stats import mcnemar, ratio, wilson

Json = dict[str, Any]

COSTS = ("forward_passes", "tokens_computed", "tokens_reused", "simulations", "evaluations", "seconds")
"""The counters of a report; simulations and evaluations are RAIN's alone."""

RATIOS = ("tokens_computed", "forward_passes", "seconds")
"""The counters that are compared between RAIN and the other sides."""


class Outcome(Enum):
    """What a judge says about one answer; OPEN: not asked yet, ABSENT: there is no such answer."""

    YES = "yes"
    NO = "no"
    UNREADABLE = "unreadable"
    OPEN = "open"
    ABSENT = "absent"


OUTCOMES: Mapping[Decision, Outcome] = {True: Outcome.YES, False: Outcome.NO, None: Outcome.UNREADABLE}
OPPOSITE = {Outcome.YES: Outcome.NO, Outcome.NO: Outcome.YES}


class Judged(NamedTuple):
    """One judge's verdicts about a criterion.

    Attributes:
        version: of the wording.
        decisions: by (record id, side).
        other_versions: number of verdicts that belong to another wording.
    """

    judge: str
    criterion: str
    version: str
    decisions: dict[tuple[str, str], Decision]
    other_versions: int


def read_judged(run: Run) -> list[Judged]:
    """Return the verdicts in scores_*.jsonl about the answers as they are now, by judge and criterion.

    Of several wordings of a question only the one asked last counts.
    """
    queries = [query for record in run.records for query in queries_for(run.task, record)]
    digests = {(query.record, query.side, query.criterion): query.digest for query in queries}
    judged = []
    for path in sorted(run.outdir.glob("scores_*.jsonl")):
        for judge, scores in read_scores(path).items():
            for criterion, version in {key.criterion: key.version for key in scores}.items():
                now = [key for key in scores if key.criterion == criterion and digests.get(key[:3]) == key.digest]
                decisions = {(key.record, key.side): scores[key] for key in now if key.version == version}
                judged.append(Judged(judge, criterion, version, decisions, len(now) - len(decisions)))
    return judged


def outcomes(run: Run, judged: Judged, side: str) -> list[Outcome]:
    """Return one outcome for each record of a run."""

    def outcome(record: Mapping[str, Any]) -> Outcome:
        if not isinstance(record.get(side), str):
            return Outcome.ABSENT
        key = (record["id"], side)
        return OUTCOMES[judged.decisions[key]] if key in judged.decisions else Outcome.OPEN

    return [outcome(record) for record in run.records]


def both(first: Outcome, second: Outcome) -> Outcome:
    """Return whether both hold; what is unreadable or open in either stays so, also next to a known NO.

    Counting only the known NO would lower the rate: the records that would have held drop out.
    """
    unknown = [one for one in (first, second) if one not in OPPOSITE]
    return unknown[0] if unknown else Outcome.NO if Outcome.NO in (first, second) else Outcome.YES


def share(found: Sequence[Outcome]) -> Json:
    """Return {yes, of, rate, low, high, null, open}.

    rate and its Wilson 95 % interval are shares of YES in YES and NO, in [0, 1]; rate is None if there are none.
    """
    counts = Counter(found)
    yes, of = counts[Outcome.YES], counts[Outcome.YES] + counts[Outcome.NO]
    unknown = {"null": counts[Outcome.UNREADABLE], "open": counts[Outcome.OPEN]}
    return {"yes": yes, "of": of, "rate": yes / of if of else None, **wilson(yes, of)._asdict(), **unknown}


def score_row(
    run: Run, metric: str, judge: str, version: str, rain: list[Outcome], plain: list[Outcome], other_versions: int = 0
) -> Json:
    """Return one row of a report: both shares, and the paired McNemar test over the records with both verdicts."""
    pairs = Counter(zip(rain, plain, strict=True))
    rain_only, plain_only = pairs[Outcome.YES, Outcome.NO], pairs[Outcome.NO, Outcome.YES]
    known = rain_only + plain_only + pairs[Outcome.YES, Outcome.YES] + pairs[Outcome.NO, Outcome.NO]
    return {
        "metric": metric,
        "judge": judge,
        "version": version,
        "better": "lower" if metric == "attack" else "higher",
        "rain": share(rain),
        "plain": share(plain),
        "pairs": known,
        "difference": (rain_only - plain_only) / known if known else None,
        "rain_only": rain_only,
        "plain_only": plain_only,
        "p": mcnemar(rain_only, plain_only) if known else None,
        "other_versions": other_versions,
        "paper": nearest(run, metric),
    }


def score_rows(run: Run, judged: Sequence[Judged]) -> list[Json]:
    """Return the rows of every judge, then True+Info of those that decide both, or of two that share the work."""
    true, info = ({one.judge: one for one in judged if one.criterion == name} for name in ("true", "info"))
    alone = [(true[a], info[b]) for a in true for b in info if a not in info and b not in true]
    pairs = [(true[judge], info[judge]) for judge in true if judge in info] + alone
    return [_judge_row(run, one) for one in judged if one.criterion != "pairwise"] + [
        _true_info(run, first, second) for first, second in pairs
    ]


def _judge_row(run: Run, judged: Judged) -> Json:
    rain, plain = (outcomes(run, judged, side) for side in SIDES)
    metric = judged.criterion if judged.criterion != "sentiment" else target(run) or "positive"
    if metric == "negative":
        rain, plain = ([OPPOSITE.get(one, one) for one in found] for found in (rain, plain))
    return score_row(run, metric, judged.judge, judged.version, rain, plain, judged.other_versions)


def _true_info(run: Run, true: Judged, info: Judged) -> Json:
    rain, plain = (list(map(both, outcomes(run, true, side), outcomes(run, info, side))) for side in SIDES)
    name = true.judge if true.judge == info.judge else f"{true.judge} + {info.judge}"
    return score_row(run, "true_info", name, f"{true.version} {info.version}", rain, plain)


def model_name(run: Run) -> str:
    """Return the name of the model that wrote the answers."""
    return next((str(record["model"]) for record in run.records if record.get("model")), "unknown")


def target(run: Run) -> str | None:
    """Return the sentiment that an imdb run steers towards, None for the other tasks."""
    return str(run.config.get("evaluation", {}).get("target") or "positive") if run.task == "imdb" else None


def nearest(run: Run, metric: str) -> list[Json]:
    """Return the paper's figures for a metric, in the settings nearest to the run's."""
    return [figure._asdict() for figure in paper_figures(run.task, metric, model_name(run))]


def pairwise_rows(run: Run, judged: Sequence[Judged]) -> list[Json]:
    """Return win / lose / tie of RAIN against the greedy baseline for each judge.

    Orders that disagree make a tie, an unreadable one null. win_rate is the share of wins among the pairs that are not
    ties, with its Wilson interval and exact sign test.
    """
    rows = []
    for one in (one for one in judged if one.criterion == "pairwise"):
        results = Counter(pair_result(one.decisions, record["id"]) for record in run.records)
        win, lose = results["win"], results["lose"]
        row: Json = {"judge": one.judge, "version": one.version, "win_rate": win / (win + lose) if win + lose else None}
        row |= {name: results[name] for name in ("win", "lose", "tie", "null", "open")}
        row |= {**wilson(win, win + lose)._asdict(), "p": mcnemar(win, lose), "paper": nearest(run, "pairwise")}
        rows.append(row)
    return rows


def pair_result(decisions: Mapping[tuple[str, str], Decision], record: str) -> str:
    """Return win, lose, tie, null or open for one record from the verdicts of both orders."""
    orders = [(record, "raina,pa"), (record, "pa,raina")]
    if any(order not in decisions for order in orders):
        return "open"
    ahead, behind = (decisions[order] for order in orders)
    if ahead is None or behind is None:
        return "null"
    return {("first", "second"): "win", ("second", "first"): "lose"}.get((str(ahead), str(behind)), "tie")


def cost(run: Run) -> Json:
    """Return totals and means per prompt of each side's counters, and RAIN's ratios to each other side.

    Ratios are of sums over the records that have both numbers, with 95 % intervals.
    """
    records = [record for record in run.records if isinstance(record.get("cost"), dict)]
    sides = dict.fromkeys(side for record in records for side in record["cost"])
    costs = {side: [cost_of(record, side) for record in records] for side in sides}
    ratios: Json = {}
    for side in (side for side in sides if side != "rain"):
        for name in RATIOS:
            pairs = zip(costs.get("rain", ()), costs[side])  # noqa: B905
            known = [(rain[name], other[name]) for rain, other in pairs if name in rain and name in other]
            if found := ratio([rain for rain, _ in known], [other for _, other in known]):
                ratios.setdefault(side, {})[name] = found._asdict()
    totals = {side: _totals(found) for side, found in costs.items()}
    return {"prompts": len(records), "sides": totals, "ratios": ratios, "paper": nearest(run, "seconds")}


def _totals(costs: Sequence[Mapping[str, float]]) -> Json:
    values = {name: [cost[name] for cost in costs if name in cost] for name in COSTS}
    return {name: {"total": sum(known), "mean": sum(known) / len(known)} for name, known in values.items() if known}
