"""From a table of verdicts and counters to numbers: rates with intervals, paired tests, pairwise wins, texts, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan
from typing import NamedTuple

from rain.core.types import Json
from rain.judges.base import Decision
from rain.judges.queries import FLUENCY, SIDES, Run
from rain.methods.config import method_title
from rain.report.paper import paper_figures
from rain.report.table import Judged, Outcome, Table, mean, without_nan
from rain.stats import mcnemar, paired_difference, ratio, wilson

COSTS = ("forward_passes", "tokens_computed", "tokens_reused", "simulations", "evaluations", "seconds")
"""The counters of a report; simulations and evaluations are RAIN's alone."""

RATIOS = ("tokens_computed", "forward_passes", "seconds")
"""The counters that are compared between RAIN and the other sides."""

OPPOSITE = {Outcome.YES: Outcome.NO, Outcome.NO: Outcome.YES}


def both(first: Outcome, second: Outcome) -> Outcome:
    """Return whether both hold; what is unreadable or open in either stays so, also next to a known NO.

    Counting only the known NO would lower the rate: the records that would have held drop out.
    """
    unknown = [one for one in (first, second) if one not in OPPOSITE]
    return unknown[0] if unknown else Outcome.NO if Outcome.NO in (first, second) else Outcome.YES


def share(found: Sequence[Outcome]) -> Json:
    """Return {yes, of, rate, low, high, null, open}.

    The `portion` is that of YES in YES and NO.
    """
    counts = Counter(found)
    known = portion(counts[Outcome.YES], counts[Outcome.YES] + counts[Outcome.NO])
    return {**known, "null": counts[Outcome.UNREADABLE], "open": counts[Outcome.OPEN]}


def portion(yes: int, of: int) -> Json:
    """Return {yes, of, rate, low, high}: a share in [0, 1] (None of nothing) and its Wilson 95 % interval."""
    return {"yes": yes, "of": of, "rate": yes / of if of else None, **wilson(yes, of)._asdict()}


def compare(first: Sequence[Outcome], second: Sequence[Outcome]) -> Json:
    """Compare paired outcomes that are known on both sides: {pairs, difference, low, high, first_only, second_only, p}.

    The difference of the shares (first - second, in [-1, 1]) has Newcombe's 95 % interval; p is the exact McNemar test.
    """
    counts = Counter(zip(first, second, strict=True))
    cells = [counts[a, b] for a in (Outcome.YES, Outcome.NO) for b in (Outcome.YES, Outcome.NO)]
    total, (_, only, other, _) = sum(cells), cells
    low, high = paired_difference(*cells)
    return {
        "pairs": total,
        "difference": (only - other) / total if total else None,
        "low": low,
        "high": high,
        "first_only": only,
        "second_only": other,
        "p": mcnemar(only, other) if total else None,
    }


class Question(NamedTuple):
    """A judge's outcomes about both sides of a run, as a report asks them: one for each row of the table."""

    metric: str
    judge: str
    version: str
    sides: Mapping[str, list[Outcome]]
    other_versions: int = 0

    @property
    def names(self) -> Json:
        """Who was asked what in which words, and whether a lower or a higher share is better."""
        better = "lower" if self.metric == "attack" else "higher"
        return {"metric": self.metric, "judge": self.judge, "version": self.version, "better": better}


def score_row(table: Table, question: Question) -> Json:
    """Return one row of a report: both shares, and their comparison over the records with both verdicts."""
    rain, plain = (question.sides[side] for side in SIDES)
    found = compare(rain, plain)
    return {
        **question.names,
        "rain": share(rain),
        "plain": share(plain),
        **{name: found[name] for name in ("pairs", "difference", "low", "high", "p")},
        "rain_only": found["first_only"],
        "plain_only": found["second_only"],
        "other_versions": question.other_versions,
        "paper": nearest(table, question.metric),
    }


def questions(table: Table) -> list[Question]:
    """Return the questions of every judge, then True+Info of those that decide both, or of two that share the work."""
    true, info = ({one.judge: one for one in table.judged if one.criterion == name} for name in ("true", "info"))
    alone = [(true[a], info[b]) for a in true for b in info if a not in info and b not in true]
    pairs = [(true[judge], info[judge]) for judge in true if judge in info] + alone
    return [_question(table, one) for one in table.judged if one.criterion not in ("pairwise", FLUENCY)] + [
        _true_info(table, first, second) for first, second in pairs
    ]


def _question(table: Table, judged: Judged) -> Question:
    sides = {side: table.outcomes(judged, side) for side in SIDES}
    metric = judged.criterion if judged.criterion != "sentiment" else target(table.run) or "positive"
    if metric == "negative":
        sides = {side: [OPPOSITE.get(one, one) for one in found] for side, found in sides.items()}
    return Question(metric, judged.judge, judged.version, sides, judged.other_versions)


def _true_info(table: Table, true: Judged, info: Judged) -> Question:
    sides = {side: list(map(both, table.outcomes(true, side), table.outcomes(info, side))) for side in SIDES}
    name = true.judge if true.judge == info.judge else f"{true.judge} + {info.judge}"
    return Question("true_info", name, f"{true.version} {info.version}", sides)


def target(run: Run) -> str | None:
    """Return the sentiment that an imdb run steers towards, None for the other tasks."""
    return str(run.config.get("evaluation", {}).get("target") or "positive") if run.task == "imdb" else None


def guide(run: Run) -> str:
    """Return what scored the texts of a run, and what drafts were drawn from if that is the whole vocabulary."""
    names = [str(spec).partition(" ")[0] for spec in run.config.get("evaluators", ())]
    whole = run.config.get("method", {}).get("n_top_k") == 0
    return ", ".join([*names, "whole vocabulary"] if whole else names)


def titles(runs: Sequence[Json]) -> list[str]:
    """Return how runs are called side by side: by their method, and by what guides them where that differs."""
    differ = len({run["guide"] for run in runs}) > 1
    named = [(method_title(run["method"]), run["guide"]) for run in runs]
    return [f"{method}, {guide}" if differ and guide else method for method, guide in named]


def nearest(table: Table, metric: str) -> list[Json]:
    """Return the paper's figures for a metric, in the settings nearest to the run's; none for other methods."""
    found = paper_figures(table.run.task, metric, table.model) if table.method == "rain" else []
    return [figure._asdict() for figure in found]


def pairwise_rows(table: Table) -> list[Json]:
    """Return win / lose / tie of RAIN against the greedy answers for each judge.

    win_rate is the share of wins among the pairs that are not ties, with its Wilson interval and exact sign test.
    """
    rows = []
    for one in (one for one in table.judged if one.criterion == "pairwise"):
        results = Counter(pair_results(one))
        win, lose = results["win"], results["lose"]
        row: Json = {"judge": one.judge, "version": one.version, "win_rate": win / (win + lose) if win + lose else None}
        row |= {name: results[name] for name in ("win", "lose", "tie", "null", "open")}
        row |= {**wilson(win, win + lose)._asdict(), "p": mcnemar(win, lose), "paper": nearest(table, "pairwise")}
        rows.append(row)
    return rows


def pair_results(judged: Judged) -> list[str]:
    """Return `pair_result` for each row of the table."""
    return list(map(pair_result, judged.decisions["raina,pa"], judged.decisions["pa,raina"]))


def pair_result(ahead: Decision | Outcome, behind: Decision | Outcome) -> str:
    """Return win, lose, tie, null or open from the verdicts of both orders: a tie where they disagree."""
    if Outcome.OPEN in (ahead, behind):
        return "open"
    if ahead is None or behind is None:
        return "null"
    return {("first", "second"): "win", ("second", "first"): "lose"}.get((str(ahead), str(behind)), "tie")


def text_rows(table: Table) -> Json:
    """Return what the answers of each side are like: {rain, plain: {words, repetition, fluency {judge: nats}}}.

    All are means over answers (None: not known): number of words, share of repeated runs of four words, nats per token.
    """
    fluencies = [one for one in table.judged if one.criterion == FLUENCY]
    return {
        name: {
            **{what: mean(table.texts[side].get(what)) for what in ("words", "repetition")},
            "fluency": {
                one.judge: mean([cell for cell in one.decisions[side] if isinstance(cell, float)])
                for one in fluencies
            },
        }
        for name, side in zip(("rain", "plain"), SIDES, strict=True)
    }


def cost(table: Table) -> Json:
    """Return totals and means per prompt of each side's counters, and RAIN's ratios to each other side.

    Ratios are of sums over the records that have both numbers, with 95 % intervals.
    """
    rain, ratios = table.costs.get("rain", {}), dict[str, Json]()
    for side, columns in table.costs.items():
        for name in (name for name in RATIOS if side != "rain" and name in rain and name in columns):
            pairs = [pair for pair in zip(rain[name], columns[name], strict=True) if not isnan(sum(pair))]
            if found := ratio([pair[0] for pair in pairs], [pair[1] for pair in pairs]):
                ratios.setdefault(side, {})[name] = found._asdict()
    sides = {side: _totals(columns) for side, columns in table.costs.items()}
    return {"prompts": table.priced, "sides": sides, "ratios": ratios, "paper": nearest(table, "seconds")}


def _totals(columns: Mapping[str, Sequence[float]]) -> Json:
    found = {name: without_nan(columns.get(name, ())) for name in COSTS}
    return {name: {"total": sum(column), "mean": mean(column)} for name, column in found.items() if column}
