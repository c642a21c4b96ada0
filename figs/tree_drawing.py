"""Layout and drawing of a recorded search tree: boxes from left to right, the committed path in one straight line."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from drawing import Axes
from matplotlib import colormaps
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from rain.report.figure import PLAIN as GREEDY

SHOWN = (3, 3, 3, 2)
"""Children drawn at each commit, the committed one included."""

COLUMNS = (14, 7, 9, 16, 24)
"""Characters of a line by depth: the opening, then 1, 2, 4 and 10 tokens."""

CHARACTER, LINE, GAP, SPACE = 0.086, 0.178, 0.4, 0.13
"""Inches: width of a character, height of a line, between two columns, between two rows."""

INK, SOFT, GREY = "#1d1d1f", "#4a4e57", "#8a8f98"
DASHED = (0, (3, 2))


@dataclass
class Box:
    """A token set in the figure.

    Attributes:
        kind: "opening", "committed", or "left": searched and given up.
        value, visits: as they were at the commit; of the opening None and 0.
        greedy: whether greedy decoding would write this text.
        y: its place (inches, downwards); a committed path is one straight line.
    """

    text: str
    depth: int
    kind: str = "left"
    value: float | None = None
    visits: int = 0
    greedy: bool = False
    y: float = 0.0
    children: list[Box] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The text, broken to the width of its column."""
        return textwrap.wrap(self.text.strip(), COLUMNS[self.depth]) or ["(end)"]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height (inches), with a line for value and visits."""
        character = CHARACTER * (1.0 if self.kind == "left" else 1.1)
        width, height = max(map(len, self.lines)) * character + 0.2, len(self.lines) * LINE + 0.13
        return (max(width, 0.95), height + 0.16) if self.visits else (width, height)


def read_box(child: Mapping[str, Any], depth: int, kind: str = "left") -> Box:
    """Return the box of a recorded child; of one that was left also the most visited chain below it."""
    box = Box(child["text"], depth, kind, child["value"], child["visits"], child["greedy"])
    below = sorted(child["children"], key=lambda other: -other["visits"])[:1]
    if kind == "left" and depth < len(SHOWN):
        box.children = [read_box(other, depth + 1) for other in below]
    return box


def make_boxes(tree: Mapping[str, Any]) -> Box:
    """Choose what is drawn: the committed path, the greedy branch, and the most visited others."""
    node = root = Box(tree["opening"], 0, "opening")
    for depth, (level, shown) in enumerate(zip(tree["levels"], SHOWN, strict=False), 1):
        chosen = level["children"][level["committed"]]
        others = [child for child in level["children"] if child is not chosen]
        others.sort(key=lambda child: (not child["greedy"], -child["visits"]))
        left = [read_box(child, depth) for child in others[: shown - 1]]
        committed = read_box(chosen, depth, "committed")
        node.children = [*left[::2][::-1], committed, *left[1::2]]
        node = committed
    return root


def place(box: Box, top: float = 0.0, height: float = 0.0) -> float:
    """Give every box of a subtree its y; return where the next row begins.

    Args:
        box: root of the subtree.
        top: where its first row begins (inches).
        height: of the tallest box so far on the row that goes through the box.
    """
    height = max(height, box.size[1])
    if not box.children:
        box.y = top + height / 2
        return top + height + SPACE
    straight = next((child for child in box.children if child.kind == "committed"), box.children[0])
    for child in box.children:
        top = place(child, top, height if child is straight else 0.0)
    box.y = straight.y
    return top


def colour(value: float | None, strength: float = 1.0) -> tuple[float, ...]:
    """Return red for -1 to green for 1, mixed with white."""
    base = (0.93, 0.94, 0.96) if value is None else colormaps["RdYlGn"](0.08 + 0.84 * (value + 1) / 2)[:3]
    return tuple(1 - strength * (1 - part) for part in base)


def left_edge(depth: int) -> float:
    """Return where a column begins (inches)."""
    return sum(max(count * CHARACTER * 1.04 + 0.2, 0.95) + GAP for count in COLUMNS[:depth])


def draw_box(axes: Axes, box: Box) -> None:
    """Draw one box with its text, value and visits."""
    (width, height), left, x = box.size, box.kind == "left", left_edge(box.depth)
    look: dict[str, Any] = {"linewidth": 1.0 if left else 2.0, "linestyle": DASHED if left else "-"}
    look |= {"edgecolor": (GREEDY if box.greedy else GREY) if left else INK, "zorder": 3}
    look |= {"boxstyle": "round,pad=0,rounding_size=0.07", "facecolor": colour(box.value, 0.4 if left else 0.85)}
    axes.add_patch(FancyBboxPatch((x, -box.y - height / 2), width, height, **look))
    ink, weight = (SOFT, "normal") if left else (INK, "bold")
    for number, line in enumerate(box.lines):
        middle = -box.y + height / 2 - 0.065 - (number + 0.5) * LINE
        axes.text(x + 0.1, middle, line, color=ink, weight=weight, fontsize=10.5, va="center", zorder=4)
    if box.visits:
        said = f"{box.value:+.2f} · {box.visits}×".replace("-", "−")
        axes.text(x + 0.1, -box.y - height / 2 + 0.125, said, color=ink, fontsize=8.5, va="center", zorder=4)
    if left and not box.children:
        axes.text(x + width + 0.06, -box.y, "↩", color=GREEDY if box.greedy else GREY, fontsize=13, va="center")


def draw_edge(axes: Axes, parent: Box, child: Box) -> None:
    """Draw a curve from a box to one of its children."""
    (x, y), (to_x, to_y) = (left_edge(parent.depth) + parent.size[0], -parent.y), (left_edge(child.depth), -child.y)
    bend = left_edge(child.depth) - GAP if parent.kind != "left" else x
    middle = (bend + to_x) / 2
    curve = Curve([(x, y), (bend, y), (middle, y), (middle, to_y), (to_x, to_y)], [1, 2, 4, 4, 4])
    committed = child.kind == "committed"
    ink = INK if committed else (GREEDY if child.greedy else GREY)
    width, style = (1.2 + 0.45 * sqrt(child.visits), "-") if committed else (1.2, DASHED)
    axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=ink, linewidth=width, linestyle=style, zorder=2))


def draw_branch(axes: Axes, box: Box) -> None:
    """Draw a box and everything after it."""
    draw_box(axes, box)
    for child in box.children:
        draw_edge(axes, box, child)
        draw_branch(axes, child)


def layout(tree: Mapping[str, Any]) -> tuple[Box, float, float]:
    """Return the boxes of a tree in their places, and width and height of what is drawn (inches)."""
    root = make_boxes(tree)
    return root, left_edge(len(COLUMNS)) - GAP + 0.35, place(root) + 0.35


def draw_tree(axes: Axes, root: Box, width: float, height: float) -> None:
    """Draw the tree with a heading over each column, into axes of its size; one unit is one inch."""
    for depth, name in enumerate(("opening", "1 token", "2 tokens", "4 tokens", "10 tokens")):
        axes.text(left_edge(depth), 0.1, name, color=GREY, fontsize=9, va="bottom")
    draw_branch(axes, root)
    axes.set(xlim=(-0.05, width - 0.05), ylim=(0.32 - height, 0.32))
    axes.set_axis_off()
