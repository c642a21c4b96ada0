"""What the page shows of a run: its prompts with answers, costs and verdicts, and where their searches are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.judges.base import Decision
from rain.judges.queries import queries_for
from rain.judges.scoring import latest_verdicts
from rain.methods.config import method_title
from rain.results.jsonl import Record
from rain.results.run_dir import iter_results, read_config, result_paths
from rain.terminal import one_line
from rain.trace.read import read, read_head
from rain.trace.record import SUFFIX, TRACES

SHOWN = ("id", "question", "raina", "pa", "finish", "value", "cost", "error")
PLACES = {"raina": "rain", "pa": "plain", "raina,pa": "rain"}
"""Where a verdict about these answers is shown."""

Verdicts = dict[tuple[str, str, str], list[tuple[str, Decision]]]
"""Judge and decision, by record, side, and what was shown and asked."""


class RunData(NamedTuple):
    """What there is to show.

    Attributes:
        title: of the page.
        prompts: as the page takes them, without ``trace``.
        traces: the files of recorded searches, by prompt.
    """

    title: str
    prompts: list[dict[str, Any]]
    traces: dict[str, Path]


def load(path: Path) -> RunData:
    """Read an OUTDIR, a folder of recorded searches, or one recorded search.

    Raises:
        RainError: there is nothing of that kind, or a file is damaged.
    """
    if not path.exists():
        raise RainError(f"there is no {path}; give the --outdir of a run, or a recorded search")
    if not path.is_dir():
        return RunData(path.name, *_recorded([path], alone=True))
    outdir = (path / "config.json").exists()
    found = sorted((path / TRACES if outdir else path).glob(f"*{SUFFIX}"))
    prompts, traces = _recorded(found, alone=not outdir)
    if outdir:
        prompts = _with_records(path, prompts)
    elif not traces:
        raise RainError(f"{path} has no config.json and no *{SUFFIX}; give the --outdir of a run, or recorded searches")
    return RunData(str(path), prompts, traces)


def files(path: Path) -> list[Path]:
    """Return the files that `load` reads; a change of theirs may change what it returns."""
    if not path.is_dir():
        return [path]
    names = ("scores_*.jsonl", f"*{SUFFIX}", f"{TRACES}/*{SUFFIX}")
    return [*result_paths(path), *(file for name in names for file in path.glob(name))]


def _recorded(paths: Iterable[Path], *, alone: bool) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Return a prompt for each recorded search, by its first event; if there are no records, by its last one, too."""
    prompts, traces = [], {}
    for path in paths:
        if head := read_head(path):
            id = head["id"] if head["id"] not in traces else f"{head['id']} ({path.name})"
            shown = {"id": id, "question": head["question"], "method": method_title("rain"), "verdicts": []}
            prompts.append({**shown, **(_ended(path) if alone else {})})
            traces[id] = path
    return prompts, traces


def _ended(path: Path) -> dict[str, Any]:
    """Return what a recorded search says of its end; nothing if it has not ended."""
    trace = read(path)
    if not trace.complete:
        return {}
    end = trace.events[-1]
    return {"raina": end["answer"], "finish": end["finish"], "cost": {"rain": end["cost"]} if end["cost"] else {}}


def _with_records(outdir: Path, recorded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the prompts of a run: those with records, then those in progress."""
    config = read_config(outdir)
    settings, verdicts = config.get("aligner", config), _verdicts(outdir)
    task, method = str(settings.get("task", "")), str(settings.get("method", {}).get("method", "rain"))
    shown = {"method": one_line(method_title(method))}
    done = [{**_prompt(task, record, verdicts), **shown} for record in iter_results(outdir)]
    ids = {prompt["id"] for prompt in done}
    return [*done, *(prompt for prompt in recorded if prompt["id"] not in ids)]


def _prompt(task: str, record: Record, verdicts: Verdicts) -> dict[str, Any]:
    """Return a record as the page takes it, with the verdicts about these very answers."""
    shown: dict[str, Any] = {name: record[name] for name in SHOWN if name in record}
    moves = [[move["text"], move["visits"], move["value"], move["simulations"]] for move in record.get("moves", ())]
    said: dict[tuple[str, str], dict[str, Any]] = {}
    for query in queries_for(task, record) if "error" not in record else ():
        for judge, decision in verdicts.get((query.record, query.side, query.digest + query.criterion), ()):
            place = PLACES.get(query.side)
            if place:
                row = said.setdefault((judge, query.criterion), {"judge": judge, "ask": query.criterion})
                row[place] = decision
    return {**shown, "moves": moves, "verdicts": list(said.values())}


def _verdicts(outdir: Path) -> Verdicts:
    """Return the verdicts of a run."""
    found: Verdicts = {}
    for path in sorted(outdir.glob("scores_*.jsonl")):
        for judge, key, decision in latest_verdicts(path):
            found.setdefault((key.record, key.side, key.digest + key.criterion), []).append((judge, decision))
    return found
