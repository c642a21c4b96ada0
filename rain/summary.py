"""The table at the end of a run: what was done and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rain.results.jsonl import Record

COSTS = ("seconds", "model_seconds", "forward_passes", "tokens_computed", "tokens_reused", "simulations", "evaluations")


def ratio(part: float, whole: float) -> float:
    """Return part / whole, 0 where there is nothing to divide by."""
    return part / whole if whole else 0.0


def summary_table(records: Sequence[Record]) -> str:
    """Return a table over result records: RAIN beside the plain answers, totals, per prompt, and the ratio."""
    answered = [record for record in records if "error" not in record]
    failed = len(records) - len(answered)
    finishes = ", ".join(f"{name} {count}" for name, count in Counter(r["finish"] for r in answered).most_common())
    lines = [f"{len(answered)} prompts answered, {failed} failed" + (f"; ended by: {finishes}" if answered else "")]
    if not answered:
        return "\n".join(lines)
    rain = {name: sum(record["cost"]["rain"][name] for record in answered) for name in COSTS}
    plain = {name: sum(record["cost"]["plain"].get(name, 0) for record in answered) for name in COSTS}
    lines.append(f"{'':18}{'RAIN':>12}{'plain':>12}{'RAIN/plain':>12}")
    for name in COSTS:
        beside = f"{plain[name]:>12,.0f}{ratio(rain[name], plain[name]):>12.1f}" if plain[name] else ""
        lines.append(f"{name.replace('_', ' '):18}{rain[name]:>12,.0f}{beside}")
    moves = sum(len(record["moves"]) for record in answered)
    requested = rain["tokens_computed"] + rain["tokens_reused"]
    lines += [
        f"per simulation: {ratio(rain['tokens_computed'], rain['simulations']):.0f} tokens computed; "
        f"{ratio(rain['tokens_reused'], requested):.0%} of the tokens of all requests came from the cache",
        f"per committed token set: {ratio(rain['simulations'], moves):.1f} simulations",
        "seconds are summed over prompts that ran side by side; model seconds split each pass by its tokens",
    ]
    return "\n".join(lines)
