"""A report as Markdown: one section per run, in tables whose columns line up in a terminal too."""

from __future__ import annotations

from collections.abc import Sequence

from rain.core.types import Json
from rain.costs import NOTE
from rain.methods.config import method_title
from rain.report.measures import titles
from rain.tables import markdown_table, markdown_text
from rain.terminal import counted

NAMES = {"attack": "attack success (lower is better)", "true": "True", "info": "Info", "true_info": "True+Info"}
"""How metrics are called, where that is not their name."""

GREEDY = "greedy"
"""How the side "plain" is called in tables."""


def markdown(report: Json) -> str:
    """Return the whole report as Markdown text."""
    parts = [_run(run) for run in report["runs"]]
    return "\n\n".join(parts + _comparisons(report["runs"], report["comparisons"])) + "\n"


def _run(run: Json) -> str:
    aim = f", steered to be {run['target']}" if run["target"] else ""
    guided = f", guided by {run['guide']}" if run["guide"] else ""
    parts = [
        "## " + markdown_text(f"{run['outdir']}: {run['task']}{aim}, {run['model']}{guided}"),
        f"{counted(run['records'], 'record')} with answers, {run['errors']} failed, "
        f"{counted(run['torn'], 'incomplete last line')} ignored; "
        f"configuration {markdown_text(str(run['config']))}.",
    ]
    if run["left_out"]:
        parts.append(f"Left out: {counted(run['left_out'], 'record')} of prompts that are no longer in the data set.")
    parts += [f"- {count} failed: {markdown_text(reason)}" for reason, count in run["error_reasons"].items()]
    name = method_title(run["method"])
    judged = [_scores(run, name), *_notes(run)] if run["scores"] else []
    parts += judged or ["No verdicts yet: `rain judge OUTDIR --judge NAME` asks for them."]
    if run["pairwise"]:
        parts.append(_pairwise(run["pairwise"], name))
    if run["cost"]["prompts"]:
        parts += [_cost(run["cost"], name), f"{NOTE.capitalize()}."]
        parts += [f"The paper's time ratio: {one['rain']:.2f} ({one['setting']})." for one in run["cost"]["paper"]]
    return "\n\n".join(parts)


def _scores(run: Json, name: str) -> str:
    head = ["measure", "judge", name, GREEDY, "difference", f"pairs: {name} only / {GREEDY} only", "McNemar p"]
    head += [f"null {name} / {GREEDY}", "not judged", "paper: vanilla → RAIN"]
    texts = _texts(run["texts"])
    body = [
        [
            NAMES.get(row["metric"], row["metric"]),
            row["judge"],
            rate(row["rain"]),
            rate(row["plain"]),
            difference(row),
            f"{row['pairs']}: {row['rain_only']} / {row['plain_only']}",
            p_value(row["p"]),
            f"{row['rain']['null']} / {row['plain']['null']}",
            str(row["rain"]["open"] + row["plain"]["open"]),
            _paper(row["paper"]),
            *texts.values(),
        ]
        for row in run["scores"]
    ]
    return markdown_table([*head, *texts], body)


def _texts(sides: Json) -> dict[str, str]:
    """Return what the answers are like, on both sides, by the heading of its column."""
    both = (sides["rain"], sides["plain"])
    found = {"words": ([side["words"] for side in both], ".0f")}
    found["repeated 4-grams"] = [side["repetition"] for side in both], ".1%"
    for judge in both[0]["fluency"]:
        found[f"nats per token, {judge}"] = [side["fluency"][judge] for side in both], ".2f"
    return {
        head: " / ".join("-" if value is None else format(value, form) for value in values)
        for head, (values, form) in found.items()
    }


def _notes(run: Json) -> list[str]:
    rates = "Rates in %, of the readable verdicts, with 95 % intervals (Wilson, Newcombe); p is exact and paired."
    texts = "Words, repeated runs of four words, and nats per token (lower is more fluent) are means over answers."
    return [f"{rates} {texts}", *map(markdown_text, run["notes"])] + [
        f"{row['other_versions']} verdicts of {markdown_text(row['judge'] + ' on ' + row['metric'])} belong to another "
        "prompt version and are ignored."
        for row in run["scores"]
        if row["other_versions"]
    ]


def _comparisons(runs: Sequence[Json], rows: Sequence[Json]) -> list[str]:
    """Return a heading and the table of runs against each other, nothing if there is none."""
    if not rows:
        return []
    names = [f"{run['outdir']} ({title})" for run, title in zip(runs, titles(runs), strict=True)]
    body = []
    for row in rows:
        measure = NAMES.get(row["metric"], row["metric"])
        shown = [names[row["first"]], names[row["second"]], measure, row["judge"], f"{row['pairs']}/{row['prompts']}"]
        body.append([*shown, difference(row), f"{row['first_only']} / {row['second_only']}", p_value(row["p"])])
    head = ["first", "second", "measure", "judge", "judged pairs/prompts", "first - second", "first only / second only"]
    return ["## Runs of the same prompts", markdown_table([*head, "McNemar p"], body)]


def _pairwise(rows: Sequence[Json], name: str) -> str:
    head = ["pairwise judge", f"{name} wins", "loses", "ties", "null", "not judged", "wins of decided", "sign test p"]
    head.append("paper: win rate")
    body = []
    for row in rows:
        counts = [str(row[name]) for name in ("win", "lose", "tie", "null", "open")]
        decided = rate({**row, "yes": row["win"], "of": row["win"] + row["lose"], "rate": row["win_rate"]})
        body.append([row["judge"], *counts, decided, p_value(row["p"]), _paper(row["paper"])])
    return markdown_table(head, body)


def _cost(cost: Json, name: str) -> str:
    sides, ratios = cost["sides"], cost["ratios"]
    body = []
    for counter in dict.fromkeys(counter for numbers in sides.values() for counter in numbers):
        known = [numbers.get(counter) for numbers in sides.values()]
        shown = ["-" if one is None else f"{one['mean']:,.1f} ({one['total']:,.0f})" for one in known]
        body.append([counter.replace("_", " "), *shown, *(_ratio(one.get(counter)) for one in ratios.values())])
    names = {"rain": name, "plain": GREEDY}
    heads = [names.get(side, side) for side in sides] + [f"{name} / {names.get(side, side)}" for side in ratios]
    return markdown_table([f"cost per prompt (total), {counted(cost['prompts'], 'prompt')}", *heads], body)


def _ratio(one: Json | None) -> str:
    if one is None:
        return "-"
    return f"{one['value']:.2f}" + ("" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]")


def _paper(figures: Sequence[Json]) -> str:
    texts = []
    for figure in figures:
        mark = "~" if figure["approx"] else ""
        before = "" if figure["vanilla"] is None else f"{mark}{100 * figure['vanilla']:.1f} → "
        texts.append(f"{before}{mark}{100 * figure['rain']:.1f} ({figure['setting']})")
    return "; ".join(texts) or "-"


def difference(row: Json) -> str:
    """Return a difference as "+12.0 [3, 21]", in points; "-" where nothing is known."""
    if row["difference"] is None:
        return "-"
    return f"{100 * row['difference']:+.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


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
