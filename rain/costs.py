"""What runs cost: sums of the counters in result records, and the table at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rain.methods.config import method_title
from rain.results.jsonl import Record
from rain.tables import text_table
from rain.terminal import counted, one_line

Cost = Mapping[str, Any]
"""The counters of one answer, by name; a nested mapping (the part of the evaluation) is not a counter."""

SHOWN = ("seconds", "model_seconds", "forward_passes", "tokens_computed", "tokens_reused", "simulations", "evaluations")
"""The counters of the table at the end of a run."""

NOTE = "seconds are summed over prompts that ran at the same time; model seconds split each pass by its tokens"

SHOWN_OF_ANSWER = ("seconds", "tokens_computed", "simulations", "evaluations")
"""Those of the table of a single answer."""


def cost_of(record: Record, side: str) -> dict[str, float]:
    """Return the counters of one side ("rain" or "plain") of a record, {} where it has none."""
    cost = record.get("cost")
    return counters(cost.get(side) or {}) if isinstance(cost, dict) else {}


def counters(cost: Cost) -> dict[str, float]:
    """Return the numbers of a cost, without nested parts."""
    return {name: value for name, value in cost.items() if isinstance(value, (int, float))}


def total(costs: Iterable[Cost]) -> dict[str, float]:
    """Return the sum of each counter over those that have it."""
    sums: Counter[str] = Counter()
    for cost in costs:
        sums.update(counters(cost))
    return dict(sums)


def ratio(part: float, whole: float) -> float:
    """Return part / whole, 0 where there is nothing to divide by."""
    return part / whole if whole else 0.0


def answer_table(method: str, answer: Cost, baseline: Cost) -> str:
    """Return what an answer cost, and what the greedy one did."""
    rows = [["", method, "greedy"]]
    for name in SHOWN_OF_ANSWER:
        digits = ",.1f" if name == "seconds" else ",.0f"
        shown = (format(cost[name], digits) if name in cost else "" for cost in (answer, baseline))
        rows.append([name.replace("_", " "), *shown])
    return text_table(rows)


def summary_table(records: Iterable[Record]) -> str:
    """Return a table over result records: the method and greedy decoding, totals, and the ratio."""
    failed = commits = 0
    method = "RAIN"
    counts, rain, baseline = Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        if "error" in record:
            failed += 1
            continue
        counts[str(record.get("finish"))] += 1
        method = method_title(str(record.get("method", "rain")))
        commits += len(record.get("moves") or ())
        rain.update(cost_of(record, "rain"))
        baseline.update(cost_of(record, "plain"))
    answered = sum(counts.values())
    finishes = ", ".join(f"{one_line(name)} {count}" for name, count in counts.most_common())
    first = f"{counted(answered, 'prompt')} answered, {failed} failed"
    if not answered:
        return first
    rows = [["", method, "greedy", f"{method}/greedy"]]
    for name in SHOWN:
        compared = [f"{baseline[name]:,.0f}"] if baseline[name] else []
        if compared and name != "tokens_reused":  # whose ratio says nothing about cost
            compared.append(f"{rain[name] / baseline[name]:.1f}")
        rows.append([name.replace("_", " "), f"{rain[name]:,.0f}", *compared])
    computed, reused, simulations = (rain[name] for name in ("tokens_computed", "tokens_reused", "simulations"))
    lines = [
        f"{first}; ended by: {finishes}",
        text_table(rows),
        f"per simulation: {ratio(computed, simulations):.0f} tokens computed; "
        f"{ratio(reused, computed + reused):.0%} of the tokens of all requests came from the cache",
        *([f"per commit: {simulations / commits:.1f} simulations"] if commits else []),
        NOTE,
    ]
    return "\n".join(lines)
