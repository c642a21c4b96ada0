"""Draw the paper's figures with what was measured: python figs/plot.py REPORT.json... [--out FOLDER].

Reads files of `rain report --json` (schema 1) and the paper's numbers, and writes hh.png, adv.png, truth.png, time.png
and imdb.png. The paper's values are pale or hollow and say so in the legend; measured ones are saturated and have 95 %
intervals. A figure without measured data says so in its title.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cost import cost, load_growth
from drawing import SIDES, Axes, Bar, Figure, Group, bar_figure, finish

from rain.core.errors import RainError
from rain.core.types import Json
from rain.report.figure import PLAIN, RAIN
from rain.report.paper import load_paper, model_size

MARKS = ("D", "^", "v", "P", "X", "*")
"""Markers of measured points, one for each run and judge."""


def percent(share: Json) -> Bar | None:
    """Return a share of a report as a bar in percent, None if no verdict is known."""
    return None if share["rate"] is None else Bar(100 * share["rate"], 100 * share["low"], 100 * share["high"])


def rows(runs: Sequence[Json], task: str, metric: str) -> list[tuple[Json, Json]]:
    """Return the runs of a task, each with its rows of a metric that have a verdict."""
    found = [(run, row) for run in runs if run["task"] == task for row in run["scores"] if row["metric"] == metric]
    return [(run, row) for run, row in found if row["rain"]["of"] or row["plain"]["of"]]


def short(name: str) -> str:
    """Return a model's or judge's name without its folder or owner, and without what a judge was learnt on."""
    kind, mark, rest = name.partition(", learnt on ")[0].partition(":")
    return f"{kind}:{short(rest)}" if mark else kind.rstrip("/").rsplit("/", 1)[-1]


def measured_label(run: Json, row: Json) -> str:
    """Return the label of a measured pair of bars: the model, then the judge."""
    judges = "\n".join(short(judge) for judge in row["judge"].split(" + "))
    return f"{short(run['model'])}\n{judges}\nn = {max(row['rain']['of'], row['plain']['of'])}"


def paper_group(label: str, values: Json) -> Group:
    """Return a group for {vanilla, rain} of the paper."""
    return Group(label, Bar(values["vanilla"]), Bar(values["rain"]), paper=True)


def paper_groups(table: Json) -> list[Group]:
    """Return a group for each model in a table of the paper."""
    return [paper_group(key.replace("-", "\n"), values) for key, values in table.items()]


def measured_groups(runs: Sequence[Json], task: str, metric: str) -> list[Group]:
    """Return a group for every judged run of a task and judge."""
    found = rows(runs, task, metric)
    return [Group(measured_label(run, row), percent(row["plain"]), percent(row["rain"]), False) for run, row in found]


def adv(runs: Sequence[Json], paper: Json, path: Path) -> None:
    """Attack success: the paper's white-box and transfer attacks, then what was measured, by judge."""
    tables = paper["advbench_asr"].items()
    panels = {f"{kind.replace('_', '-')} GCG (paper)": paper_groups(table) for kind, table in tables}
    panels["measured"] = measured_groups(runs, "adv", "attack")
    bar_figure(path, "AdvBench under attack: attack success rate (lower is better)", panels, "% of attacks")


def truth(runs: Sequence[Json], paper: Json, path: Path) -> None:
    """TruthfulQA: True+Info, True and Info."""
    sides = paper["truthfulqa_llama2_chat_13b"]
    panels = {}
    for metric, name in (("true_info", "True + Info"), ("true", "True"), ("info", "Info")):
        published = paper_group("LLaMA-2-chat\n13B", {side: sides[side][metric] for side in sides})
        panels[name] = [published, *measured_groups(runs, "truth", metric)]
    bar_figure(path, "TruthfulQA", panels, "% of answers", decimals=1)


def imdb(runs: Sequence[Json], paper: Json, path: Path) -> None:
    """Controlled sentiment generation; runs that steer to a negative review have a panel of their own."""
    published = paper_groups(paper["imdb_positive"])
    positive, negative = (measured_groups(runs, "imdb", metric) for metric in ("positive", "negative"))
    panels = {"steered to positive: % positive": published + positive, "steered to negative: % negative": negative}
    bar_figure(path, "IMDB: controlled sentiment generation", panels, "% of reviews")


def time(runs: Sequence[Json], paper: Json, path: Path) -> None:
    """Time of RAIN relative to greedy decoding: the paper's without a KV cache, the measured one with it."""
    table = paper["time_ratio_rain_over_vanilla"].items()
    published = [Group(key, None, Bar(value), True) for key, value in table if key != "note"]
    measured = []
    for run in runs:
        for side, ratios in run["cost"]["ratios"].items():
            if "seconds" in ratios:
                found = ratios["seconds"]
                label = f"{run['task']}\n{short(run['model'])}\nvs {'greedy' if side == 'plain' else side}"
                measured.append(Group(label, None, Bar(found["value"], found["low"], found["high"]), False))
    panels = {"HH, greedy without KV cache": published, "measured, greedy with KV cache": measured}
    bar_figure(path, "Time of RAIN relative to greedy decoding", panels, "ratio of seconds", decimals=1)


def hh(runs: Sequence[Json], paper: Json, path: Path) -> None:
    """Harmlessness and helpfulness over model size; once one of them is measured, only what is measured."""
    panels = {"Harmlessness": rows(runs, "hh", "harmless"), "Helpfulness": rows(runs, "hh", "helpful")}
    panels = {name: found for name, found in panels.items() if found} or panels
    figure = Figure(figsize=(max(8.0, 5.25 * len(panels)), 5.0))
    handles: dict[str, Any] = {}
    marks: dict[tuple[str, str], str] = {}
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for one, (name, found) in zip(axes, panels.items(), strict=True):
        for family, mark in (("LLaMA", "o"), ("LLaMA-2", "s")):
            draw_family(one, family, mark, paper[f"hh_{name.lower()}_approx"][family], handles)
        for run, row in found:
            beside = [other for run2, other in found if run2["size"] == run["size"]]
            mark = marks.setdefault((run["outdir"], row["judge"]), MARKS[len(marks) % len(MARKS)])
            draw_measured(one, run, row, beside.index(row) - (len(beside) - 1) / 2, mark, handles)
        dress(one, name, [run["size"] for run, _ in found])
    title = f"HH: {' and '.join(panels).lower()} over model size"
    finish(figure, path, title, bool(marks), list(handles.values()))


def dress(axes: Axes, name: str, sizes: Sequence[float | None]) -> None:
    """Give a panel over model size its title, scales and ticks; a size too near another one gets no tick."""
    axes.set_xscale("log")
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("model size, billions of parameters (log scale)")
    axes.set_ylabel("% of answers")
    axes.set_ylim(-3, 103)
    ticks = [7.0, 13.0, 30.0, 70.0]
    for size in sorted({size for size in sizes if size}):
        ticks += [size] if all(max(size / tick, tick / size) > 1.3 for tick in ticks) else []
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def draw_family(axes: Axes, family: str, mark: str, table: Json, handles: dict[str, Any]) -> None:
    """Draw the paper's two lines of a model family, hollow and dashed."""
    sizes = [model_size(key) or 1.0 for key in table]
    for side, colour, who in (("vanilla", PLAIN, "vanilla"), ("rain", RAIN, "RAIN")):
        label = f"{family} {who}, paper"
        values = [table[key][side] for key in table]
        style: dict[str, Any] = {"color": colour, "marker": mark, "mfc": "white", "linestyle": "--", "linewidth": 1}
        handles.setdefault(label, axes.plot(sizes, values, label=label, **style)[0])


def draw_measured(axes: Axes, run: Json, row: Json, rank: float, mark: str, handles: dict[str, Any]) -> None:
    """Draw a measured pair of points with intervals at the model's size (0.1 if the name does not tell it)."""
    size = run["size"] or 0.1
    for shift, (side, colour) in zip((-1, 1), SIDES, strict=True):
        bar = percent(row[side])
        if bar is None:
            continue
        label = f"{'RAIN' if side == 'rain' else 'greedy'}, measured: {short(run['model'])}, {short(row['judge'])}"
        place = size * 1.09 ** (shift + 3 * rank)
        style: dict[str, Any] = {"color": colour, "fmt": mark, "markersize": 7, "capsize": 4}
        handles.setdefault(label, axes.errorbar(place, bar.value, yerr=bar.ends, label=label, **style))


def load_reports(paths: Sequence[Path]) -> list[Json]:
    """Return the runs of several report files; a RainError names a file that is not one."""
    runs: list[Json] = []
    for path in paths:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RainError(f"{path}: cannot be read as a report ({error}); make it with rain report --json") from error
        if not isinstance(report, dict) or report.get("schema") != 1:
            raise RainError(f"{path}: is not a report of schema 1; make it with rain report --json")
        runs += report["runs"]
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Draw every figure; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description="Draw the paper's figures with what was measured.")
    parser.add_argument("report", nargs="*", type=Path, help="files of rain report --json")
    parser.add_argument("--bench", nargs="*", default=[], type=Path, help="rain bench --growth --json, for cost.png")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="output folder")
    args = parser.parse_args(argv)
    try:
        runs, paper = load_reports(args.report), load_paper()
        measured = [load_growth(path) for path in args.bench]
    except RainError as error:
        print(f"plot: error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    for draw in (hh, adv, truth, time, imdb):
        path = args.out / f"{draw.__name__}.png"
        draw(runs, paper, path)
        print(path)
    if measured:
        cost(measured, args.out / "cost.png")
        print(args.out / "cost.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
