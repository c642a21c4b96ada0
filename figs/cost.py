"""How RAIN's time grows: the figure of `rain bench --growth --json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drawing import RAIN
from matplotlib.figure import Figure

from rain.core.errors import RainError

PANELS = (
    ("prompts", "prompts, all at once"),
    ("simulations", "maximum simulations per commit (T)"),
    ("length", "maximum tokens of the response"),
)


def load_growth(path: Path) -> Mapping[str, Any]:
    """Read what `rain bench --growth` measured."""
    try:
        growth: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["growth"]
        return growth
    except OSError as error:
        raise RainError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise RainError(f"{path} is not a result of rain bench --growth --json ({error})") from error


def cost(growth: Mapping[str, Any], path: Path) -> None:
    """Draw how the time of a run grows with prompts, simulations per commit and response length."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, 3), PANELS, strict=True):
        points = sorted(growth[name])
        axes.plot([point[0] for point in points], [point[1] for point in points], "o-", color=RAIN)
        axes.set(xlabel=label, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.suptitle("What RAIN costs (measured by rain bench --growth)")
    figure.savefig(path, dpi=150)
