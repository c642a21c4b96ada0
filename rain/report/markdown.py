"""A report as Markdown: one section per run, in tables whose columns line up in a terminal too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rain.tables import markdown_table, markdown_text

Json = Mapping[str, Any]

NAMES = {"attack": "attack success (lower is better)", "true": "True", "info": "Info", "true_info": "True+Info"}
"""How metrics are called, where that is not their name."""

SIDE_NAMES = {"rain": "RAIN", "plain": "baseline"}


def markdown(report: Json) -> str:
    """Return the whole report as Markdown text."""
    return "\n\n".join(_run(run) for run in report["runs"]) + "\n"


def _run(run: Json) -> str:
    aim = f", steered to be {run['target']}" if run["target"] else ""
    parts = [
        "## " + markdown_text(f"{run['outdir']}: {run['task']}{aim}, {run['model']}"),
        f"{run['records']} records with answers, {run['errors']} failed, {run['torn']} incomplete last lines ignored; "
        f"configuration {markdown_text(str(run['config']))}.",
    ]
    if run["left_out"]:
        parts.append(f"Left out: {run['left_out']} records of prompts that are no longer in the data set.")
    parts += [f"- {count} failed: {markdown_text(reason)}" for reason, count in run["error_reasons"].items()]
    judged = [_scores(run["scores"]), *_notes(run["scores"])] if run["scores"] else []
    parts += judged or ["No verdicts yet: run `rain judge`."]
    if run["pairwise"]:
        parts.append(_pairwise(run["pairwise"]))
    if run["cost"]["prompts"]:
        parts += [_cost(run["cost"]), *_ratios(run["cost"])]
    return "\n\n".join(parts)


def _scores(rows: Sequence[Json]) -> str:
    head = ["measure", "judge", "RAIN", "baseline", "difference", "pairs: RAIN only / baseline only", "McNemar p"]
    head += ["null RAIN / baseline", "not judged", "paper: vanilla → RAIN"]
    body = [
        [
            NAMES.get(row["metric"], row["metric"]),
            row["judge"],
            rate(row["rain"]),
            rate(row["plain"]),
            "-" if row["difference"] is None else f"{100 * row['difference']:+.1f}",
            f"{row['pairs']}: {row['rain_only']} / {row['plain_only']}",
            p_value(row["p"]),
            f"{row['rain']['null']} / {row['plain']['null']}",
            str(row["rain"]["open"] + row["plain"]["open"]),
            "; ".join(_paper(figure) for figure in row["paper"]) or "-",
        ]
        for row in rows
    ]
    return markdown_table(head, body)


def _notes(rows: Sequence[Json]) -> list[str]:
    return ["Rates in %, of the readable verdicts, with Wilson 95 % intervals; p is exact and paired."] + [
        f"{row['other_versions']} verdicts of {markdown_text(row['judge'] + ' on ' + row['metric'])} belong to another "
        "prompt version and are ignored."
        for row in rows
        if row["other_versions"]
    ]


def _pairwise(rows: Sequence[Json]) -> str:
    head = ["pairwise judge", "RAIN wins", "loses", "ties", "null", "not judged", "wins of decided", "sign test p"]
    head.append("paper: win rate")
    body = []
    for row in rows:
        counts = [str(row[name]) for name in ("win", "lose", "tie", "null", "open")]
        share = {"yes": row["win"], "of": row["win"] + row["lose"], **{k: row[k] for k in ("low", "high")}}
        figures = "; ".join(_paper(figure) for figure in row["paper"]) or "-"
        body.append([row["judge"], *counts, rate({**share, "rate": row["win_rate"]}), p_value(row["p"]), figures])
    return markdown_table(head, body)


def _cost(cost: Json) -> str:
    sides, ratios = cost["sides"], cost["ratios"]
    body = []
    for name in dict.fromkeys(name for numbers in sides.values() for name in numbers):
        known = [numbers.get(name) for numbers in sides.values()]
        shown = ["-" if one is None else f"{one['mean']:,.1f} ({one['total']:,.0f})" for one in known]
        body.append([name.replace("_", " "), *shown, *(_ratio(one.get(name)) for one in ratios.values())])
    heads = [SIDE_NAMES.get(side, side) for side in sides] + [f"RAIN / {SIDE_NAMES.get(side, side)}" for side in ratios]
    return markdown_table([f"cost per prompt (total), {cost['prompts']} prompts", *heads], body)


def _ratios(cost: Json) -> list[str]:
    return [f"The paper's time ratio: {one['rain']:.2f} ({one['setting']})." for one in cost["paper"]]


def _ratio(one: Json | None) -> str:
    if one is None:
        return "-"
    return f"{one['value']:.2f}" + ("" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]")


def _paper(figure: Json) -> str:
    mark = "~" if figure["approx"] else ""
    before = "" if figure["vanilla"] is None else f"{mark}{100 * figure['vanilla']:.1f} → "
    return f"{before}{mark}{100 * figure['rain']:.1f} ({figure['setting']})"


def rate(share: Json) -> str:
    """Return a share as "75.0 [60, 86] 30/40", percent; "-" where nothing is known."""
    if share["rate"] is None:
        return "-"
    bounds = f"[{100 * share['low']:.0f}, {100 * share['high']:.0f}]"
    return f"{100 * share['rate']:.1f} {bounds} {share['yes']}/{share['of']}"


def p_value(p: float | None) -> str:
    """Return a p value with two significant digits, "-" for none."""
    if p is None:
        return "-"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"
