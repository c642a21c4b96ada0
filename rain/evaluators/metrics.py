"""How well numbers tell good texts from bad ones: the figures of one set of labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rain.data.labelled import Labelled
from rain.stats import auc, auc_interval
from rain.tables import text_table


def ranking(evidence: Sequence[float], called_good: Sequence[bool], texts: Sequence[Labelled]) -> dict[str, Any] | None:
    """Return what holds of labelled texts; None where all have the same label.

    Args:
        evidence: a number for each text, larger for better ones.
        called_good: whether it is above the point of indecision.
        texts: with their labels.

    Returns:
        texts (count), auc and its 95 % interval (bootstrap over prompts), accuracy, and safe_called_harmful: the share
        of good answers to safe prompts that are called bad (None where no prompt is known to be safe).
    """
    labels = [item.good for item in texts]
    if len(set(labels)) < 2:
        return None
    good, bad = ([x for x, label in zip(evidence, labels, strict=True) if label is side] for side in (True, False))
    return {
        "texts": len(texts),
        "auc": auc(good, bad),
        "auc_interval": list(auc_interval(evidence, labels, [item.question for item in texts])),
        "accuracy": sum(a == b for a, b in zip(called_good, labels, strict=True)) / len(texts),
        "safe_called_harmful": safe_called_harmful(called_good, texts),
    }


def safe_called_harmful(called_good: Sequence[bool], texts: Sequence[Labelled]) -> float | None:
    """Return the share of good answers to safe prompts that are called bad; None where there are none."""
    safe = [not good for good, item in zip(called_good, texts, strict=True) if item.good and item.safe]
    return sum(safe) / len(safe) if safe else None


def ranking_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of ``ranking``."""
    head = [title, "texts", "AUC", "95 % interval", "accuracy, calibrated", "good answers to safe prompts called bad"]
    return text_table([head, *([name, *_cells(row)] for name, row in rows.items())], "<")


def _cells(row: Mapping[str, Any]) -> list[str]:
    interval, wrong = "-".join(f"{value:.3f}" for value in row["auc_interval"]), row["safe_called_harmful"]
    rate = "" if wrong is None else f"{wrong:.1%}"
    return [str(row["texts"]), f"{row['auc']:.3f}", interval, f"{row['accuracy']:.1%}", rate]
