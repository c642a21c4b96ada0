"""The paper's figures (arXiv 2309.07124) for the settings nearest to a measured one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from math import log
from typing import Any, NamedTuple


class PaperFigure(NamedTuple):
    """One setting of the paper; shares in [0, 1], rates only where the paper has them; read off a figure if approx."""

    setting: str
    vanilla: float | None
    rain: float
    approx: bool


@cache
def load_paper() -> Mapping[str, Any]:
    """Return the paper's numbers."""
    loaded: dict[str, Any] = json.loads(files("rain.report").joinpath("paper_results.json").read_text("utf-8"))
    return loaded


def model_size(name: str) -> float | None:
    """Return a model's size in billions of parameters by its name or folder (7b, 135M), None if they do not say."""
    name = name.rstrip("/").rsplit("/", 1)[-1]
    if name == "smollm2":
        return 0.135
    found = re.findall(r"(?<![a-z0-9.])(?:\d+x)?(\d+(?:\.\d+)?)([bm])(?![a-z])", name.casefold())
    if not found:
        return None
    number, unit = found[-1]
    return float(number) * (1.0 if unit == "b" else 0.001)


def nearest_size(sizes: Iterable[str], size: float | None) -> str:
    """Return the name ("7B", "Vicuna-13B") whose size is nearest by ratio; the smallest for an unknown size."""
    wanted = size or 0.001
    return min(sizes, key=lambda name: abs(log((model_size(name) or 1.0) / wanted)))


HH = {"harmless": "hh_harmlessness_approx", "helpful": "hh_helpfulness_approx", "pairwise": "hh_win_rate_approx"}
"""The paper's tables of models in families, by metric."""


def paper_figures(task: str, metric: str, model: str) -> list[PaperFigure]:
    """Return the paper's figures for a metric of a task in the settings nearest to `model`; [] if it has none.

    metric: harmless, helpful, pairwise, attack, true, info, true_info, positive or seconds (a ratio, not a share).
    """
    paper, size, low = load_paper(), model_size(model), model.casefold()
    family = "LLaMA-2" if re.search("llama-?2", low) else "LLaMA"
    if metric in HH:
        table = paper[HH[metric]]
        family = family if family in table else "LLaMA"
        key = nearest_size(table[family], size)
        return [_figure(f"{family} {key}", table[family][key], approx=True)]
    if metric == "attack":
        kinds = [(kind, table, nearest_size(table, size)) for kind, table in paper["advbench_asr"].items()]
        return [_figure(f"{key}, {kind.replace('_', '-')} GCG", table[key]) for kind, table, key in kinds]
    if metric in ("true", "info", "true_info"):
        sides = paper["truthfulqa_llama2_chat_13b"]
        return [_figure("LLaMA-2-chat 13B", {side: sides[side][metric] for side in sides})]
    if metric == "positive":
        table = paper["imdb_positive"]
        key = next((key for key in table if key.split("-")[0].casefold() in low), "LLaMA-7B")
        return [_figure(key, table[key])]
    if metric == "seconds" and task == "hh":
        table = paper["time_ratio_rain_over_vanilla"]
        key = nearest_size([key for key in table if key.startswith(f"{family}-")], size)
        return [PaperFigure(f"{key}, greedy without a KV cache", None, table[key], False)]
    return []


def _figure(setting: str, value: Any, approx: bool = False) -> PaperFigure:
    """Return a figure in percent as shares: both sides, or RAIN's alone."""
    sides = value if isinstance(value, dict) else {"rain": value}
    vanilla = round(sides["vanilla"] / 100, 4) if "vanilla" in sides else None
    return PaperFigure(setting, vanilla, round(sides["rain"] / 100, 4), approx)
