"""Drawing for figs/plot.py: pairs of bars with intervals, legends that fit, titles that say what is missing."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.extras import need
from rain.report.figure import PLAIN, RAIN

try:
    need("a figure", "figs", "matplotlib")  # asked before any figure imports it
except RainError as error:
    print(f"{Path(sys.argv[0]).stem}: error: {error}", file=sys.stderr)
    sys.exit(2)

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PALE = {RAIN: "#f0c4be", PLAIN: "#c3d8ea"}
SIDES = (("plain", PLAIN), ("rain", RAIN))


class Bar(NamedTuple):
    """One bar: value and the ends of its interval in the units of the axis; low and high None without an interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> list[list[float]] | None:
        """How far the interval reaches below and above the value, as matplotlib takes it."""
        if self.low is None or self.high is None:
            return None
        return [[max(0.0, self.value - self.low)], [max(0.0, self.high - self.value)]]  # rounding can put one past it


class Group(NamedTuple):
    """Two bars side by side, greedy and RAIN (None: not known), with their label."""

    label: str
    plain: Bar | None
    rain: Bar | None
    paper: bool


def draw_groups(axes: Axes, groups: Sequence[Group], decimals: int = 0) -> None:
    """Draw groups of bars from left to right; the paper's ones pale and hatched."""
    for place, group in enumerate(groups):
        alone = group.plain is None or group.rain is None
        for offset, (side, colour) in zip((-0.2, 0.2), SIDES, strict=True):
            if bar := getattr(group, side):
                style = {**look(colour, group.paper), "width": 0.38, "capsize": 3, "error_kw": {"linewidth": 1.2}}
                drawn = axes.bar(place + (0 if alone else offset), bar.value, yerr=bar.ends, **style)
                axes.bar_label(drawn, fmt=f"%.{decimals}f", padding=2, fontsize=7.5)
    axes.set_xticks(range(len(groups)), [wrap(group.label) for group in groups], fontsize=8)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def look(colour: str, paper: bool) -> dict[str, Any]:
    """Return how a bar is filled: the paper's pale and hatched."""
    if not paper:
        return {"color": colour}
    return {"facecolor": PALE[colour], "edgecolor": colour, "hatch": "///", "linewidth": 0.8, "alpha": 0.75}


def wrap(label: str, width: int = 17) -> str:
    """Break the lines of a label, at hyphens and colons too, so that neighbours do not overlap."""
    lines = [part for line in label.split("\n") for part in textwrap.wrap(line.replace(":", ": "), width) or [""]]
    return "\n".join(lines).replace(": ", ":")


def finish(figure: Figure, path: Path, title: str, measured: bool, handles: Sequence[Any]) -> None:
    """Put title and legend in place and write a figure; the legend takes as many rows as its texts need."""
    figure.suptitle(title if measured else f"{title}\n(no measured data: the paper's values alone)", fontsize=12)
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / (0.085 * longest + 0.6))))
    room = (0.25 + 0.2 * ceil(len(handles) / columns)) / figure.get_figheight()
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, room, 1, 1))
    figure.savefig(path, dpi=150)


def bar_legend(groups: Sequence[Group]) -> list[Patch]:
    """Return the legend of a bar chart: only what it shows."""
    handles = []
    for paper in (True, False):
        for side, colour in SIDES:
            if any(group.paper == paper and getattr(group, side) for group in groups):
                who = "RAIN" if side == "rain" else ("vanilla" if paper else "greedy")
                what = "paper" if paper else "measured, 95 % interval"
                handles.append(Patch(label=f"{who}, {what}", **look(colour, paper)))
    return handles


def bar_figure(path: Path, title: str, panels: Mapping[str, Sequence[Group]], unit: str, decimals: int = 0) -> None:
    """Write a figure of panels of bars side by side, without those that are empty."""
    panels = {name: groups for name, groups in panels.items() if groups}
    widths = [sum(1.0 if group.paper else 1.4 for group in groups) + 0.7 for groups in panels.values()]
    figure = Figure(figsize=(max(7.0, sum(widths)), 4.8))
    axes = figure.subplots(1, len(panels), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
    for one, (name, groups) in zip(axes, panels.items(), strict=True):
        draw_groups(one, groups, decimals)
        one.set_title(name, fontsize=10)
        one.set_ylabel(unit)
        if unit.startswith("%"):
            one.set_ylim(0, 112)
            one.set_yticks(range(0, 101, 20))
        else:
            one.margins(y=0.12)
            one.set_ylim(bottom=0)
    every = [group for groups in panels.values() for group in groups]
    finish(figure, path, title, any(not group.paper for group in every), bar_legend(every))
