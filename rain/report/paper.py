"""The paper's figures (arXiv 2309.07124, figs/paper_results.json) that stand nearest to a measured setting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any, NamedTuple

EMBEDDED_SIZES = {"smollm2": 0.135, "gemma3-270m": 0.27}
"""Billions of parameters of the models that the package brings."""


class PaperFigure(NamedTuple):
    """One setting of the paper; shares in [0, 1], rates only where the paper has them; read off a figure if approx."""

    setting: str
    vanilla: float | None
    rain: float
    approx: bool


def paper_path() -> Path:
    """Return where the paper's numbers lie; the file is missing where only the package is installed."""
    return Path(__file__).resolve().parents[2] / "figs" / "paper_results.json"


def load_paper(path: Path | None = None) -> dict[str, Any]:
    """Return the paper's numbers, {} where the file is missing."""
    path = path or paper_path()
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def model_size(name: str) -> float | None:
    """Return a model's size in billions of parameters as its name or folder tells it (7b, 135M), None where not."""
    name = name.rstrip("/").rsplit("/", 1)[-1]
    if name in EMBEDDED_SIZES:
        return EMBEDDED_SIZES[name]
    found = re.findall(r"(?<![a-z0-9.])(?:\d+x)?(\d+(?:\.\d+)?)([bm])(?![a-z])", name.casefold())
    if not found:
        return None
    number, unit = found[-1]
    return float(number) * (1.0 if unit == "b" else 0.001)


def nearest_size(sizes: Mapping[str, Any], size: float | None) -> str:
    """Return the key ("7B", "Vicuna-13B") whose size is nearest by ratio; the smallest for an unknown size."""
    wanted = size or 0.001
    return min(sizes, key=lambda key: abs(log((model_size(key) or 1.0) / wanted)))


def paper_figures(paper: Mapping[str, Any], task: str, metric: str, model: str) -> list[PaperFigure]:
    """Return the paper's figures for a metric of a task in the settings nearest to `model`; [] where it has none.

    metric: harmless, helpful, pairwise, attack, true, info, true_info, positive or seconds (a ratio, not a share).
    """
    if not paper:
        return []
    size, low = model_size(model), model.casefold()
    family = "LLaMA-2" if "llama-2" in low or "llama2" in low else "LLaMA"
    if metric in ("harmless", "helpful"):
        table = paper[f"hh_{metric}ness_approx" if metric == "harmless" else "hh_helpfulness_approx"][family]
        key = nearest_size(table, size)
        return [_figure(f"{family} {key}", table[key], True)]
    if metric == "pairwise":
        table = paper["hh_win_rate_approx"]["LLaMA"]
        key = nearest_size(table, size)
        return [PaperFigure(f"LLaMA {key}", None, round(table[key] / 100, 4), True)]
    if metric == "attack":
        return [_attack(paper["advbench_asr"], kind, size) for kind in ("white_box", "transfer")]
    if metric in ("true", "info", "true_info"):
        sides = paper["truthfulqa_llama2_chat_13b"]
        return [_figure("LLaMA-2-chat 13B", {side: sides[side][metric] for side in sides})]
    if metric == "positive":
        table = paper["imdb_positive"]
        key = next((key for key in table if key.split("-")[0].casefold() in low), "LLaMA-7B")
        return [_figure(key, table[key])]
    if metric == "seconds" and task == "hh":
        table = {key: value for key, value in paper["time_ratio_rain_over_vanilla"].items() if key != "note"}
        key = nearest_size({key: None for key in table if key.startswith(f"{family}-")}, size)
        return [PaperFigure(f"{key}, baseline without a KV cache", None, table[key], False)]
    return []


def _figure(setting: str, sides: Mapping[str, float], approx: bool = False) -> PaperFigure:
    return PaperFigure(setting, round(sides["vanilla"] / 100, 4), round(sides["rain"] / 100, 4), approx)


def _attack(table: Mapping[str, Any], kind: str, size: float | None) -> PaperFigure:
    key = nearest_size(table[kind], size)
    return _figure(f"{key}, {kind.replace('_', '-')} GCG", table[kind][key])
