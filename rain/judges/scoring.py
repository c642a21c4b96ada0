"""Scoring a run: ask a judge whatever it has not been asked, and keep every verdict at once.

    OUTDIR/scores_<judge>.jsonl    one object per verdict: id, answer, ask, judge, version, hash, verdict, reply

A verdict belongs to the exact texts that were judged (hash) and to the wording of the question (version); it is never
asked again. `verdict` null means that the reply could not be read: it is kept and counted, and stays no verdict.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rain.core.errors import RainError
from rain.judges.base import Decision, Judge, Query, Unanswered, file_name
from rain.judges.queries import Run, queries_for
from rain.results.jsonl import Record, ResultWriter, scan

FAILURES_IN_A_ROW = 5
"""After so many queries without a reply, one after the other, the judge is taken to be out of order."""


class Key(NamedTuple):
    """What a stored verdict belongs to."""

    record: str
    answer: str
    ask: str
    version: str
    digest: str


@dataclass
class Summary:
    """What one scoring did: numbers of queries, except calls and retries, which are requests.

    cached: verdicts that were there before; asked: new ones; nulls: unreadable replies among both, by ask; failed: no
    reply, so nothing was stored; reasons: up to three of the reasons.
    """

    judge: str
    path: Path
    cached: int = 0
    asked: int = 0
    failed: int = 0
    calls: int = 0
    retries: int = 0
    nulls: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)


def score_path(outdir: Path, judge: str) -> Path:
    """Return where a judge's verdicts about a run are kept."""
    return outdir / file_name(judge)


def read_scores(path: Path, judge: str) -> dict[Key, Decision]:
    """Return the verdicts of a judge in a score file, the last one for each key; {} when there is no file."""
    if not path.exists():
        return {}
    lines = [line.record for line in scan(path).lines]
    return {_key(line, path): line["verdict"] for line in lines if line.get("judge") == judge}


def _key(line: Record, path: Path) -> Key:
    try:
        return Key(line["id"], line["answer"], line["ask"], line["version"], line["hash"])
    except KeyError as error:
        raise RainError(f"{path}: a verdict about {line['id']} lacks the field {error}; remove that line") from error


async def score_run(run: Run, judge: Judge, *, again: bool = False, tick: Callable[[], None] | None = None) -> Summary:
    """Put every open query of a run to a judge, `judge.concurrency` at a time; verdicts are on disk as they come.

    again: ask also the queries whose stored reply could not be read. tick: called after each query.

    Raises RainError when the judge decides nothing in this task, cannot go on (key, quota, --max-calls), or gave no
    reply to FAILURES_IN_A_ROW queries one after the other; what was judged stays, and requests under way are awaited.
    """
    path = score_path(run.outdir, judge.name)
    stored = read_scores(path, judge.name)
    queries = list(keyed_queries(run, judge))
    if not queries and run.records:
        raise RainError(f"judge {judge.name} has nothing to say about task {run.task}; choose another")
    summary = Summary(judge.name, path)
    pending = []
    for query, key in queries:
        if key in stored and not (again and stored[key] is None):
            summary.cached += 1
            summary.nulls[query.ask] += stored[key] is None
        else:
            pending.append((query, key))
    if pending:
        with ResultWriter(path) as writer:
            await _ask_all(iter(pending), judge, writer, summary, tick)
    return summary


def keyed_queries(run: Run, judge: Judge) -> Iterator[tuple[Query, Key]]:
    """Yield the queries of a run that a judge can decide, each with the key of its verdict."""
    for record in run.records:
        for query in queries_for(run.task, record):
            version = judge.version(query.ask)
            if version is not None:
                yield query, Key(query.record, query.answer, query.ask, version, query.digest)


async def _ask_all(
    pending: Iterator[tuple[Query, Key]],
    judge: Judge,
    writer: ResultWriter,
    summary: Summary,
    tick: Callable[[], None] | None,
) -> None:
    """Run the workers; one that must stop lets the others finish the query they are at, which may have cost money."""
    guard = _Guard(summary)
    stops: list[Exception] = []

    async def work() -> None:
        while not stops and (item := next(pending, None)):
            try:
                await _ask_one(*item, judge, writer, guard)
            except Exception as error:
                stops.append(error)
            if tick:
                tick()

    await asyncio.gather(*(work() for _ in range(judge.concurrency)))
    summary.calls, summary.retries = judge.calls, judge.retries
    if stops:
        raise stops[0]


async def _ask_one(query: Query, key: Key, judge: Judge, writer: ResultWriter, guard: _Guard) -> None:
    try:
        verdict = await judge.decide(query)
    except Unanswered as error:
        guard.failed(error)
    else:
        writer.write(_line(key, judge.name, verdict.decision, verdict.reply))
        guard.answered(query.ask, verdict.decision)


def _line(key: Key, judge: str, decision: Decision, reply: str) -> Record:
    names = ("id", "answer", "ask", "version", "hash")
    return {**dict(zip(names, key, strict=True)), "judge": judge, "verdict": decision, "reply": reply}


class _Guard:
    """Counts what happens and stops a judge that is out of order."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._row = 0

    def answered(self, ask: str, decision: Decision) -> None:
        self._row = 0
        self._summary.asked += 1
        self._summary.nulls[ask] += decision is None

    def failed(self, error: Unanswered) -> None:
        self._summary.failed += 1
        if len(self._summary.reasons) < 3:
            self._summary.reasons.append(str(error))
        if not (error.refused and self._summary.asked):
            self._row += 1
        if self._row >= FAILURES_IN_A_ROW:
            raise RainError(
                f"judge {self._summary.judge} gave no reply to {self._row} queries in a row (last: {error}); "
                "what it judged is kept, and the same command goes on from there"
            )
