"""Draw one search tree of the embedded model, and next to it what RAIN did on imdb: python figs/tree.py.

Reads figs/tree.json and writes tree.png and overview.png next to it. ``--record N`` first searches the answer to
opening N of imdb/openings.jsonl and writes tree.json; it needs the model (about a minute on two cores).
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drawing import Axes, Figure, Patch
from matplotlib.lines import Line2D
from tree_drawing import GREY, INK, colour, draw_tree, layout

from rain.core.errors import RainError
from rain.core.tree import Node
from rain.core.types import Tokens
from rain.report.figure import PLAIN as GREEDY
from rain.report.paper import load_paper
from rain.stats import wilson
from rain.trace.read import TraceEvent
from rain.trace.tree import Tree

FOLDER = Path(__file__).parent
SETTINGS = {"max_simulations": 50, "max_new_tokens": 17, "chat_template": False}
DEPTH = 3
"""Generations that are kept in the file of a branch that was left."""

MEASURED: Mapping[str, Any] = {"greedy": 23, "rain": 35, "n": 66, "p": "p = 0.0005"}
"""Positive answers of smollm2 on imdb to one blind rater, and McNemar's test (docs/results.md)."""


def record(number: int) -> dict[str, Any]:
    """Search the answer to an opening; return the part of the tree that is drawn, as plain values."""
    from rain import Rain
    from rain.data.datasets import load_prompts

    with Rain("smollm2", task="imdb", **SETTINGS) as rain:
        task, aligner = rain.settings.aligner.task, rain.aligner
        prompt = load_prompts(task.path(task.dataset), task.reader)[number]
        members = bytearray()
        prepared = aligner.prepare(prompt.id, prompt.question, trace=lambda member, first: members.extend(member))
        greedy = rain.run(aligner.generate_baseline(prepared))
        answer = rain.run(aligner.generate(prepared))
    events = map(json.loads, gzip.decompress(members).splitlines())
    return {
        "model": "smollm2",
        "settings": SETTINGS,
        "prompt": prompt.id,
        "opening": prompt.question,
        "answer": answer.text,
        "greedy": greedy.text,
        "simulations": answer.cost["simulations"],
        "levels": list(levels(events, greedy.tokens, aligner.policy.text)),
    }


def levels(events: Iterable[TraceEvent], greedy: Tokens, text: Callable[[Tokens], str]) -> Iterator[dict[str, Any]]:
    """Yield for each commit the visited children of the root, as they were then, and the index of the committed one."""

    def branches(node: Node, before: Tokens, depth: int = DEPTH) -> list[dict[str, Any]]:
        return [
            {
                "text": text(child.tokens),
                "value": round(child.value, 3),
                "visits": child.visits,
                "greedy": (path := before + child.tokens) == greedy[: len(path)],
                "children": branches(child, path, depth - 1),
            }
            for child in node.children
            if child.visits and depth
        ]

    tree, before = Tree(), Tokens()
    for event in events:
        if event["event"] == "commit":
            kept, committed = [child for child in tree.root.children if child.visits], tree.nodes[event["node"]]
            yield {"committed": kept.index(committed), "children": branches(tree.root, before)}
            before += committed.tokens
        tree.apply(event)


def draw_results(axes: Axes, paper: Mapping[str, Any]) -> None:
    """Draw the share of positive answers on imdb, greedy and RAIN: the paper's models, and the embedded one."""
    rows = [(name.replace("-", " "), values["vanilla"], values["rain"]) for name, values in paper.items()]
    axes.set_xlim(0, 100)
    for place, (name, greedy, rain) in enumerate(rows):
        draw_pair(axes, place, f"{name} (paper)", greedy, rain)
    greedy, rain = (100 * MEASURED[side] / MEASURED["n"] for side in ("greedy", "rain"))
    place = len(rows) + 0.25
    draw_pair(axes, place, f"SmolLM2 135M (measured, n = {MEASURED['n']}, {MEASURED['p']})", greedy, rain)
    for shift, side, value in ((-0.17, "greedy", greedy), (0.17, "rain", rain)):
        low, high = (100 * end for end in wilson(MEASURED[side], MEASURED["n"]))
        axes.errorbar(value, place + shift, xerr=[[value - low], [high - value]], color=INK, capsize=3, linewidth=1.2)
    axes.set_ylim(place + 0.5, -0.75)
    axes.set_axis_off()


def draw_pair(axes: Axes, place: float, name: str, greedy: float, rain: float) -> None:
    """Draw two horizontal bars with their values and a name above them."""
    axes.text(0, place - 0.4, name, fontsize=10, color=INK, va="center")
    for shift, value, shade in ((-0.17, greedy, "#b9bec7"), (0.17, rain, colour(0.8))):
        axes.barh(place + shift, value, height=0.3, color=shade)
        axes.text(1.5, place + shift, f"{value:.1f}", fontsize=9.5, color=INK, va="center")


def legend(figure: Figure, y: float) -> None:
    """Explain boxes and lines, below the tree."""
    handles = [
        Line2D([], [], color=INK, linewidth=3.5, label="committed"),
        Line2D([], [], color=GREY, linewidth=1.2, linestyle="--", label="searched, judged, rewound  ↩"),
        Line2D([], [], color=GREEDY, linewidth=1.2, linestyle="--", label="what greedy decoding writes"),
        Patch(facecolor=colour(-1), label="value −1"),
        Patch(facecolor=colour(0), label="0"),
        Patch(facecolor=colour(1), label="+1  (value · visits)"),
    ]
    options: dict[str, Any] = {"loc": "lower left", "ncols": 6, "frameon": False, "fontsize": 9, "handlelength": 1.8}
    figure.legend(handles=handles, bbox_to_anchor=(0.0, y), columnspacing=1.2, **options)


def draw(tree: Mapping[str, Any], path: Path, paper: Mapping[str, Any] | None) -> None:
    """Write a figure of the tree; with the paper's numbers, the results on imdb stand next to it."""
    (root, width, height), margin, below, above = layout(tree), 0.15, 1.0, 0.45
    side = 3.6 if paper else 0.0
    whole, high = width + 2 * margin + side, height + below + above
    figure = Figure(figsize=(whole, high))
    draw_tree(figure.add_axes((margin / whole, below / high, width / whole, height / high)), root, width, height)
    bold = {"fontsize": 12, "weight": "bold", "color": INK, "va": "top"}
    top = 1 - 0.12 / high
    figure.text(margin / whole, top, "One answer: RAIN searches, judges its own text, rewinds, commits", **bold)
    for up, who, ink in ((0.72, "greedy", GREEDY), (0.47, "RAIN", INK)):
        figure.text((margin + 0.05) / whole, up / high, f"{who}:", color=ink, fontsize=10, weight="bold")
        said = f"… {tree['greedy' if who == 'greedy' else 'answer']} …"
        figure.text((margin + 0.75) / whole, up / high, said, color=ink, fontsize=10)
    legend(figure, 0.02 / high)
    if paper:
        left = (width + 2 * margin + 0.2) / whole
        figure.text(left, top, "Positive film reviews, %", **bold)
        axes = figure.add_axes((left, 0.4 / high, (side - 0.4) / whole, 1 - (0.4 + above) / high))
        draw_results(axes, paper)
        handles = [Patch(color="#b9bec7", label="greedy"), Patch(color=colour(0.8), label="RAIN")]
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (left - 0.01, 0.02 / high)}
        figure.legend(handles=handles, ncols=2, frameon=False, fontsize=9.5, **place)
    figure.savefig(path, dpi=160)


def load_tree(path: Path) -> dict[str, Any]:
    """Read a recorded tree; RainError says how to make one."""
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return tree
    except (OSError, ValueError) as error:
        raise RainError(f"cannot read {path} ({error}); make it with python figs/tree.py --record 45") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Record if asked, then draw; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description="Draw a search tree, and next to it what RAIN did on imdb.")
    parser.add_argument("--record", type=int, metavar="N", help="search the answer to opening N of imdb first")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of tree.json and the figures")
    args = parser.parse_args(argv)
    file = args.out / "tree.json"
    try:
        if args.record is not None:
            file.write_text(json.dumps(record(args.record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        tree = load_tree(file)
    except RainError as error:
        print(f"tree: error: {error}", file=sys.stderr)
        return 2
    draw(tree, args.out / "tree.png", None)
    draw(tree, args.out / "overview.png", load_paper()["imdb_positive"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
