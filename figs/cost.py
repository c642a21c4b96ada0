"""How RAIN's time grows: the figure of `rain bench --growth --json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from drawing import Figure

from rain.core.errors import RainError
from rain.report.figure import OTHERS, PLAIN, RAIN

PANELS = (
    ("prompts", "searches, all at once", "seconds"),
    ("memory", "searches, all at once", "peak memory, model included (MiB)"),
    ("simulations", "maximum simulations per commit (T)", "seconds"),
    ("length", "maximum tokens of the response", "seconds"),
    ("context", "tokens of the prompts", "seconds per simulation"),
)


class Growth(NamedTuple):
    """What was measured on a machine: rows of each panel."""

    machine: str
    rows: Mapping[str, Any]


def load_growth(path: Path) -> Growth:
    """Read what `rain bench --growth` measured."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return Growth(result["machine"], result["growth"])
    except OSError as error:
        raise RainError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise RainError(f"{path} is not a result of rain bench --growth --json ({error})") from error


def cost(measured: Sequence[Growth], path: Path) -> None:
    """Draw how time and memory grow with searches, simulations per commit, and lengths of response and prompts."""
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    *used, spare = figure.subplots(2, 3).flat
    for axes, (name, label, unit) in zip(used, PANELS, strict=True):
        top = 0.0
        for (machine, rows), color in zip(measured, cycle((RAIN, PLAIN, *OTHERS))):
            points = sorted(rows[name])
            heights = [point[1] / point[2] if name == "context" else point[1] for point in points]
            top = max(top, *heights)
            axes.plot([point[0] for point in points], heights, "o-", color=color, label=fill(machine, 32))
        axes.set(xlabel=label, ylabel=unit, xlim=(0, None), ylim=(0, 1.08 * top))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    spare.set_axis_off()
    spare.legend(*used[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.suptitle("What RAIN costs (measured by rain bench --growth)")
    figure.savefig(path, dpi=150)
