"""Rate against cost: one point a run, so that methods can be compared at equal cost."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.core.types import Json
from rain.extras import need
from rain.report.measures import titles

COSTS = {"tokens_computed": "tokens computed per prompt", "seconds": "seconds per prompt"}
NAMES = {"attack": "attack success", "true": "true answers", "info": "informative answers", "true_info": "true + info"}
GREEDY = "greedy baseline"


RAIN, PLAIN = "#c0392b", "#2c6da4"
"""Colours of RAIN and of the greedy answers, in figs/ too."""

OTHERS = ("#666666", "#d68910", "#1e8449", "#7d3c98", "#17a2b8")
"""Colours of other methods."""


class Point(NamedTuple):
    """A run in a panel: its method, mean cost per prompt, and rate with interval (shares in [0, 1])."""

    method: str
    cost: float
    rate: float
    low: float
    high: float


def panels(runs: Sequence[Json]) -> dict[tuple[str, str, str], dict[str, list[Point]]]:
    """Return the points of each (task, metric, judge) by cost counter, in order of method, then cost.

    The greedy baseline's point is that of the run with most verdicts about it. What has no cost is left out.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, Json, Json]]] = {}
    for title, each in zip(titles(runs), runs, strict=True):
        for row in each["scores"]:
            groups.setdefault((each["task"], row["metric"], row["judge"]), []).append((title, each, row))
    found = {}
    for key, members in groups.items():
        sides = [(title, run, row, "rain") for title, run, row in members]
        most = max(members, key=lambda member: member[2]["plain"]["of"])
        sides.append((GREEDY, *most[1:], "plain"))
        counters = {counter: sorted(filter(None, [_point(counter, *side) for side in sides])) for counter in COSTS}
        if any(counters.values()):
            found[key] = counters
    return found


def colours(methods: Collection[str]) -> dict[str, str]:
    """Return the colour of each method; of several searches, which evaluators tell apart, the first is RAIN's."""
    searches, others = [method for method in methods if method.startswith("RAIN")], cycle(OTHERS)
    named = {GREEDY: PLAIN} | dict.fromkeys(searches[:1], RAIN)
    return {method: named.get(method) or next(others) for method in methods}


def _point(counter: str, method: str, run: Json, row: Json, side: str) -> Point | None:
    price, rate = run["cost"]["sides"].get(side, {}).get(counter), row[side]
    if not price or rate["rate"] is None:
        return None
    return Point(method, price["mean"], rate["rate"], rate["low"], rate["high"])


def equal_cost(runs: Sequence[Json]) -> bytes:
    """Return a PNG: for each metric and judge the rate against both costs, runs of one method joined.

    Raises:
        RainError: matplotlib is not installed, or no run has both verdicts and costs.
    """
    need("the figure", "figs", "matplotlib")
    from matplotlib.figure import Figure

    found = panels(runs)
    if not found:
        raise RainError("no run has both verdicts and costs, so there is nothing to draw; run `rain judge` first")
    figure = Figure(figsize=(11, 3.8 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), len(COSTS), squeeze=False)
    chosen = colours(dict.fromkeys(point.method for one in found.values() for ps in one.values() for point in ps))
    for axes, ((task, metric, judge), counters) in zip(grid, found.items(), strict=True):
        for ax, (counter, label) in zip(axes, COSTS.items(), strict=True):
            for method, colour in chosen.items():
                if points := [point for point in counters[counter] if point.method == method]:
                    draw(ax, points, colour, method)
            ax.set_xscale("log")
            ax.set_xlabel(f"{label} (log scale)")
            ax.set_ylabel(f"{NAMES.get(metric, metric)} (%)")
            ax.grid(alpha=0.3)
            ax.legend(fontsize=8)
        axes[0].set_title(f"{task}: {judge}", fontsize=9, loc="left", parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    return data.getvalue()


def draw(axes: Any, points: Sequence[Point], colour: str, method: str) -> None:
    """Draw the runs of one method, joined, with their 95 % intervals; rates in percent."""
    rates = [100 * point.rate for point in points]
    below = [max(0.0, 100 * (point.rate - point.low)) for point in points]  # rounding can put an end past the rate
    above = [max(0.0, 100 * (point.high - point.rate)) for point in points]
    style = {"color": colour, "marker": "o", "capsize": 3, "label": method}
    axes.errorbar([point.cost for point in points], rates, yerr=[below, above], **style)
