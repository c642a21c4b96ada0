"""Raters without a browser: they see what is on their page, decide, and save what the page would save."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.judge_server import record, write_run

from rain.annotate.make import make
from rain.judges.queries import load_run

Decide = Callable[[dict[str, Any]], str]
"""From an item of a page to the verdict."""


def study(folder: Path, *runs: Path, question: str = "preferred", **options: Any) -> dict[str, Any]:
    """Make the pages of a study, by default one without repeats; return its secret."""
    return make([load_run(run) for run in runs], question, folder, **{"repeat": 0, "key": "k", **options})


def page_data(page: Path) -> dict[str, Any]:
    """Return what a page knows."""
    [data] = re.findall('<script type="application/json" id="data">(.*?)</script>', page.read_text())
    return {**json.loads(data), "sha256": hashlib.sha256(data.encode()).hexdigest()}


def saved(data: dict[str, Any], verdicts: list[str], ms: int = 5000) -> str:
    """Return the file that a page saves after some verdicts."""
    head = {"study": data["study"], "rater": data["rater"], "page": data["sha256"], "items": len(data["items"])}
    given = zip(data["items"], verdicts, strict=False)
    rows = [{"id": item["id"], "verdict": verdict, "ms": ms} for item, verdict in given]
    body = "".join(json.dumps(row) + "\n" for row in [head, *rows])
    return body + json.dumps({"digest": hmac.new(data["key"].encode(), body.encode(), "sha256").hexdigest()}) + "\n"


def rate(study: Path, rater: int, decide: Decide) -> Path:
    """Have a rater answer everything, and return the file."""
    data = page_data(study / f"rater_{rater}.html")
    path = study / f"rater_{rater}.jsonl"
    path.write_text(saved(data, [decide(item) for item in data["items"]]))
    return path


def prefers(wanted: Callable[[str, str], str]) -> Decide:
    """Decide about pairs by the texts in alphabetical order: "first", "second" or another verdict."""

    def decide(item: dict[str, Any]) -> str:
        texts = sorted(item["texts"])
        verdict = wanted(*texts)
        return {"first": "second", "second": "first"}.get(verdict, verdict) if texts != item["texts"] else verdict

    return decide


def pairs_run(outdir: Path, count: int, **more: Any) -> Path:
    """Write an hh run: in record i the method says "a<i>." and greedy decoding "b<i>."."""
    return write_run(outdir, "hh", [record(i, f"a{i}.", f"b{i}.", f"Question {i}?", **more) for i in range(count)])


def better(item: dict[str, Any]) -> str:
    """Decide about single answers of such a run: those of the method are good."""
    return "yes" if item["texts"][0][0] == "a" else "no"


def panel(folder: Path, seed: int, raters: int, same: float, left: float = 0.0, items: int = 150) -> list[Path]:
    """Have a panel rate pairs; return its files.

    With probability `same` a rater says what the panel agreed on, which is either answer; with probability `left` what
    is on the left; else either. So two raters agree with probability (1 + same²) / 2, and kappa is same².
    """
    study(folder, pairs_run(folder / "run", items), raters=raters, repeat=0.1, key=f"panel {seed}")
    rng = random.Random(seed)
    truth = {f"Question {i}?": rng.choice(["first", "second"]) for i in range(items)}

    def decide(item: dict[str, Any]) -> str:
        chance = rng.random()
        if chance < same:
            return prefers(lambda *_: truth[item["question"]])(item)
        return "first" if chance < same + left else rng.choice(["first", "second"])

    return [rate(folder, rater, decide) for rater in range(1, raters + 1)]
