"""Verdicts written by hand, as `rain judge` would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rain.judges.queries import load_run, queries_for
from rain.judges.scoring import file_name

JUDGE = "openai:m"


def write_scores(outdir: Path, verdicts: dict[tuple[str, str, str], Any], judge: str = JUDGE, wording: int = 1) -> None:
    """Append verdicts by (record id, answer, ask)."""
    found = load_run(outdir)
    queries = {(q.record, q.side, q.criterion): q for one in found.records for q in queries_for(found.task, one)}
    with (outdir / file_name(judge)).open("a") as file:
        for key, verdict in verdicts.items():
            names = dict(zip(("id", "answer", "ask"), key, strict=True))
            more = {"version": f"{key[2]}-{wording}", "hash": queries[key].digest, "judge": judge, "reply": ""}
            file.write(json.dumps({**names, **more, "verdict": verdict}) + "\n")


def binary(
    outdir: Path, ask: str, rain: list[Any], plain: list[Any], judge: str = JUDGE, wording: int = 1, first: int = 0
) -> None:
    """Append verdicts about both sides of the records from number `first` on; "open" for none."""
    rows = {(f"r{i}", "raina", ask): value for i, value in enumerate(rain, first)}
    rows |= {(f"r{i}", "pa", ask): value for i, value in enumerate(plain, first)}
    write_scores(outdir, {key: value for key, value in rows.items() if value != "open"}, judge, wording)
