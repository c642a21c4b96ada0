"""A report as Markdown: one section per run, tables whose columns line up in a terminal too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

NAMES = {
    "harmless": "harmless",
    "helpful": "helpful",
    "attack": "attack success (lower is better)",
    "true": "True",
    "info": "Info",
    "true_info": "True+Info",
    "positive": "positive",
    "negative": "negative",
}


def markdown(report: Json) -> str:
    """Return the whole report as Markdown text."""
    return "\n\n".join(_run(run) for run in report["runs"]) + "\n"


def _run(run: Json) -> str:
    aim = f", steered to be {run['target']}" if run["target"] else ""
    parts = [
        f"## {run['outdir']}: {run['task']}{aim}, {run['model']}",
        f"{run['records']} records with answers, {run['errors']} failed, {run['torn']} torn last lines left out; "
        f"configuration {run['config']}.",
    ]
    parts += [f"- {count} failed: {reason}" for reason, count in run["error_reasons"].items()]
    if run["scores"]:
        parts += [_scores(run["scores"]), *_notes(run["scores"])]
    else:
        parts.append("No verdicts yet: run `rain judge`.")
    if run["pairwise"]:
        parts.append(_pairwise(run["pairwise"]))
    if run["cost"]["prompts"]:
        parts += [_cost(run["cost"]), *_ratios(run["cost"])]
    return "\n\n".join(parts)


def _scores(rows: Sequence[Json]) -> str:
    head = ["measure", "judge", "RAIN", "plain", "difference", "pairs: RAIN only / plain only", "McNemar p"]
    head += ["null RAIN / plain", "not judged", "paper: vanilla → RAIN"]
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
    return table(head, body)


def _notes(rows: Sequence[Json]) -> list[str]:
    notes = ["Rates in %, of the readable verdicts, with Wilson 95 % intervals; p is exact and paired."]
    notes += [
        f"{row['other_versions']} verdicts of {row['judge']} on {row['metric']} answer another wording: left out."
        for row in rows
        if row["other_versions"]
    ]
    return notes


def _pairwise(rows: Sequence[Json]) -> str:
    head = ["pairwise judge", "RAIN wins", "loses", "ties", "null", "not judged", "wins of decided", "sign test p"]
    head.append("paper: win rate")
    body = []
    for row in rows:
        counts = [str(row[name]) for name in ("win", "lose", "tie", "null", "open")]
        share = {"yes": row["win"], "of": row["win"] + row["lose"], **{k: row[k] for k in ("low", "high")}}
        figures = "; ".join(_paper(figure) for figure in row["paper"]) or "-"
        body.append([row["judge"], *counts, rate({**share, "rate": row["win_rate"]}), p_value(row["p"]), figures])
    return table(head, body)


def _cost(cost: Json) -> str:
    sides = list(cost["sides"])
    names = list(dict.fromkeys(name for side in sides for name in cost["sides"][side]))
    body = []
    for name in names:
        numbers = [cost["sides"][side].get(name) for side in sides]
        shown = ["-" if one is None else f"{one['mean']:,.1f} ({one['total']:,.0f})" for one in numbers]
        body.append([name.replace("_", " "), *shown, *(_ratio(one.get(name)) for one in cost["ratios"].values())])
    ratios = [f"RAIN / {side}" for side in cost["ratios"]]
    return table([f"cost per prompt (total), {cost['prompts']} prompts", *sides, *ratios], body)


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


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are padded to the same width."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in [head, *body]]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
