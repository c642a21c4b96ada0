"""Ratios of what was measured, and the table that ``rain bench`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rain.tables import text_table

PAPER_RATIO = (3.78, 4.36)

Row = Mapping[str, Any]
"""See ``rain.bench.rows.run_searches``."""


def ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Return speed-ups over the baseline implementation, whether both decided the same, and RAIN's time over greedy.

    Speed-ups are of the time by the clock; those of CPU time hold on a busy machine as well.
    """
    found: dict[str, Any] = {}
    long, exact = dict(result["long"]), result.get("decisions", {})
    if "published" in result:
        found |= compared(result["published"], result["rain"], "", exact)
    for width, row in result["step_by_step"].items():
        pair = compared(row, {width: result["rain"][width]}, "ahead_", {})
        pair["ahead_same_decisions"] &= found.get("ahead_same_decisions", True)
        if row.get("dtype", "float32") != "float32":  # rounding alone may decide
            del pair["ahead_same_decisions"]
        found |= pair
    if "published" in long:
        found |= compared(long.pop("published"), long, "long_", {})
        if exact:  # rounding alone may decide
            del found["long_same_decisions"]
    if "whole" in result:
        each = result["whole"]["seconds"] / result["whole"]["prompts"]
        for name in ("uncached", "cached"):
            found[f"rain_over_plain_{name}"] = each / result["plain"][f"{name}_seconds"]
    return found


def compared(base: Row, rows: Mapping[str, Row], name: str, exact: Row) -> dict[str, Any]:
    """Return how many times faster each row is, by the clock and by CPU time, and whether all answer the same."""
    found: dict[str, Any] = {}
    for width, row in rows.items():
        for kind, field in (("speedup", "seconds_per_simulation"), ("cpu_speedup", "cpu_seconds_per_simulation")):
            found[f"{name}{kind}_{width}"] = base[field] / row[field]
    exact = exact or {"published": base["answers"], "rain": {w: row["answers"] for w, row in rows.items()}}
    same = all(answers[0] == exact["published"][0] for answers in exact["rain"].values())
    same &= all(row.get("visited") == base.get("visited") for row in rows.values())
    return {**found, f"{name}same_decisions": same}


def named_rows(result: dict[str, Any]) -> list[tuple[str, Row]]:
    """Return the rows of the table."""
    rows = [("baseline implementation", result["published"])] if "published" in result else []
    rows += [(f"RAIN, {width} at once", row) for width, row in result["rain"].items()]
    rows += [(f"nothing ahead, {width} at once", row) for width, row in result["step_by_step"].items()]
    rows += [(f"long prompts: {w}", row) for w, row in result["long"].items()]
    rows += [(f"{name}, {width}", row) for name, found in result["engines"].items() for width, row in found.items()]
    return rows + ([("whole responses", result["whole"])] if "whole" in result else [])


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    rows = named_rows(result)
    cells = [["", "s/sim", "CPU s/sim", "s/token", "calls/sim", "tokens/sim", "comp/dist", "outside", "MiB"]]
    for name, row in rows:
        distinct, outside = row["computed_over_distinct"], row.get("outside_models_share")
        committed = row["seconds_per_committed_token"]
        cells.append(
            [
                name,
                f"{row['seconds_per_simulation']:.3f}",
                f"{row['cpu_seconds_per_simulation']:.3f}",
                f"{committed:.2f}" if committed else "",
                f"{row['calls_per_simulation']:.1f}",
                f"{row['tokens_per_simulation']:.0f}",
                f"{distinct:.3f}" if distinct else "",
                f"{outside:.1%}" if outside is not None else "",
                f"{row['peak_memory_mib']:.0f}",
            ]
        )
    values = {f"greedy {name.replace('_', ' ')}": value for name, value in result["plain"].items()} | result["ratio"]
    lines = [f"{name}: {value if isinstance(value, bool) else f'{value:.2f}'}" for name, value in values.items()]
    if "decisions" in result:
        lines.append("decisions were compared in short searches in float32")
    lines.append(f"number format: {', '.join({row['dtype'] for _, row in rows})}; {result['machine']}")
    if "whole" in result:
        lines.append(f"paper: RAIN takes {PAPER_RATIO[0]}-{PAPER_RATIO[1]} times the greedy answer without a KV cache")
    return "\n".join([text_table(cells), *pass_table(rows, result["bandwidth_gb_s"]), *lines])


def pass_table(rows: Sequence[tuple[str, Row]], bandwidth: float) -> list[str]:
    """Return what single passes take, and CUDA's counters; [] unless they were measured."""
    measured = [(name, row["pass"]) for name, row in rows if "pass" in row]
    if not measured:
        return []
    cells = [["each pass", *(name.replace("_", " ") for name in measured[0][1])]]
    cells += [
        [name, *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in row.values())] for name, row in measured
    ]
    return [text_table(cells), f"roofline: weights, keys and values once a pass at {bandwidth:g} GB/s"]
