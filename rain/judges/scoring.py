"""Scoring a run: ask a judge whatever it has not been asked, and store every verdict at once.

    OUTDIR/scores_<judge>.jsonl    one object per verdict: id, answer, ask, judge, version, hash, verdict, reply

A verdict belongs to the exact texts that were judged (hash) and to the wording of the question (version); it is never
asked again. `verdict` null means that the reply could not be read: it is kept and counted, but is not a verdict.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rain.core.digest import digest
from rain.core.errors import RainError
from rain.judges.base import Decision, Judge, NoReply, Query, Verdict
from rain.judges.queries import FLUENCY, Run, criteria, queries_for
from rain.results.files import locked
from rain.results.jsonl import Record, ResultWriter, read_records

MAX_CONSECUTIVE_FAILURES = 5
"""Stop after this many queries in a row without a reply."""

LOCK_WAIT_S = 10.0
"""How long to wait for another process that is scoring the run with the same judge."""

MAX_STORED_REPLY = 2000
"""Longer replies are cut in the score file (characters)."""

LONGEST_NAME = 150
"""Of a longer name of a judge its score file has the beginning and a digest; file systems take some 255 bytes."""

FIELDS = ("id", "answer", "ask", "version", "hash")
"""The names of a key's parts in a score file."""

Tick = Callable[[], object]
"""Called after each query, also one with an earlier verdict."""


class Key(NamedTuple):
    """What a stored verdict belongs to."""

    record: str
    side: str
    criterion: str
    version: str
    digest: str


@dataclass
class Summary:
    """What a scoring did.

    Attributes:
        cached, asked, failed: queries with an earlier verdict, with a new one, and without a reply.
        calls, retries: requests.
        nulls: unreadable replies, cached or new, by criterion.
        reasons: why queries got no reply, the first three.
        note: what readers of the verdicts must know.
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
    note: str = ""


def file_name(judge: str) -> str:
    """Return the name of a judge's score file: scores_<judge>.jsonl with only letters, digits, '.', '-' and '_'."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", judge)
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}_{digest(judge)}"
    return f"scores_{name}.jsonl"


def read_verdicts(path: Path) -> Iterator[tuple[str, Key, Decision]]:
    """Yield the verdicts in a score file as they were written, each with its judge; none if there is no file."""
    for record, key in _read(path):
        yield sys.intern(str(record.get("judge"))), key, record["verdict"]


def latest_verdicts(path: Path) -> list[tuple[str, Key, Decision]]:
    """Return the verdicts of each judge in the wording in which it was asked last."""
    found = list(read_verdicts(path))
    last = {(judge, key.criterion): key.version for judge, key, _ in found}
    return [(judge, key, said) for judge, key, said in found if key.version == last[judge, key.criterion]]


def _read(path: Path) -> Iterator[tuple[Record, Key]]:
    for _, record in read_records(path) if path.exists() else ():
        wrong = [name for name in FIELDS if not isinstance(record.get(name), str)]
        verdict = record.get("verdict", "")
        if not (verdict is None or isinstance(verdict, (bool, float)) or verdict in ("first", "second", "tie")):
            wrong.append("verdict")
        if wrong:
            what = f"a verdict about {record['id']} lacks a proper field {wrong[0]!r}"
            raise RainError(f"{path}: {what}; delete that line")
        id, side, criterion, version, digest = (record[name] for name in FIELDS)
        yield record, Key(id, sys.intern(side), sys.intern(criterion), sys.intern(version), digest)


def key_of(query: Query, judge: Judge) -> Key | None:
    """Return the key of a judge's verdict about a query, None if the judge cannot decide it."""
    if (version := judge.version(query.criterion)) is None:
        return None
    return Key(query.record, query.side, query.criterion, version, query.digest)


def count_queries(run: Run, judge: Judge) -> int:
    """Return how many queries about a run a judge can decide."""
    return sum(count for criterion, count in run.queries.items() if judge.version(criterion) is not None)


def check_suits(judge: Judge, task: str, writers: Collection[str]) -> None:
    """Raise a RainError if a judge decides nothing in a task, or is one of the models that write its answers."""
    if judge.model and judge.model in writers:
        raise RainError(f"judge {judge.name} is the model that writes the answers; choose another judge")
    if all(judge.version(criterion) is None for criterion in (*criteria(task), FLUENCY)):
        raise RainError(f"judge {judge.name} has nothing to say about task {task}; choose another")


async def score_run(run: Run, judge: Judge, *, again: bool = False, tick: Tick | None = None) -> Summary:
    """Put every open query of a run to a judge, and also those whose reply could not be read if `again` is set.

    Raises:
        RainError: the judge decides nothing in this task, wrote the answers, or cannot continue (see `ask_all`), or
            another process is scoring the run with it.
    """
    check_suits(judge, run.task, run.models)
    path = run.outdir / file_name(judge.name)
    busy = f"{path} is being written by another process; wait until it finishes or stop it"
    with locked(path.with_name(f".{path.name}.lock"), busy, LOCK_WAIT_S):  # before reading: nothing is asked twice
        return await _score(path, run, judge, again, tick)


async def _score(path: Path, run: Run, judge: Judge, again: bool, tick: Tick | None) -> Summary:
    stored, again_last = _read_stored(path, judge)
    if again_last:
        with ResultWriter(path) as writer:
            for record in again_last:
                writer.write(record)
    summary = Summary(judge.name, path, note=judge.note)

    def unanswered() -> Iterator[Query]:
        for query in (query for record in run.records for query in queries_for(run.task, record)):
            if (key := key_of(query, judge)) is None:
                continue
            if key not in stored or (again and stored[key] is None):
                yield query
                continue
            summary.cached += 1
            summary.nulls[key.criterion] += stored[key] is None
            if tick:
                tick()

    pending = unanswered()
    if first := next(pending, None):
        with ResultWriter(path) as writer:  # before anything is asked: a verdict that cannot be kept costs money too

            def store(query: Query, verdict: Verdict) -> None:
                key = dict(zip(FIELDS, key_of(query, judge) or (), strict=True))
                writer.write({**key, "judge": judge.name, "verdict": verdict.decision, "reply": cut(verdict.reply)})

            await ask_all(chain([first], pending), judge, store, summary, tick)
    return summary


def _read_stored(path: Path, judge: Judge) -> tuple[dict[Key, Decision], list[Record]]:
    """Return a judge's verdicts in a score file, and those to write again, so that its present wording is the last one.

    Of several wordings the last one in the file counts; one verdict of each criterion is enough.
    """
    stored: dict[Key, Decision] = {}
    records: dict[tuple[str, str], Record] = {}
    last: dict[str, str] = {}
    for record, key in _read(path):
        if record.get("judge") == judge.name:
            stored[key] = record["verdict"]
            records[key.criterion, key.version] = record
            last[key.criterion] = key.version
    wanted = judge.versions.items()
    return stored, [record for key, record in records.items() if key in wanted and last[key[0]] != key[1]]


def cut(reply: str) -> str:
    """Return a reply as it is stored: of a long one the beginning, and how long it was."""
    return reply if len(reply) <= MAX_STORED_REPLY else f"{reply[:MAX_STORED_REPLY]} [... {len(reply):,} characters]"


async def ask_all(
    queries: Iterable[Query],
    judge: Judge,
    store: Callable[[Query, Verdict], None],
    summary: Summary,
    tick: Tick | None = None,
) -> None:
    """Put queries to a judge, `judge.concurrency` at a time, and store each verdict as it comes.

    Raises:
        RainError: the judge cannot continue (key, quota, --max-calls), or gave no reply to MAX_CONSECUTIVE_FAILURES
            queries in a row. Verdicts are kept, and requests in flight, which may have cost money, are awaited.
    """
    pending, stops, failures_in_a_row = iter(queries), list[Exception](), 0

    async def work() -> None:
        nonlocal failures_in_a_row
        while not stops and (query := next(pending, None)):
            try:
                verdict = await judge.decide(query)
                store(query, verdict)
                failures_in_a_row = 0
                summary.asked += 1
                summary.nulls[query.criterion] += verdict.decision is None
            except NoReply as error:
                summary.failed += 1
                summary.reasons = [*summary.reasons, str(error)][:3]
                failures_in_a_row += not (error.refused and summary.asked)  # one that answers may decline any number
                if failures_in_a_row >= MAX_CONSECUTIVE_FAILURES:
                    reason = f"gave no reply to {failures_in_a_row} queries in a row (last: {error})"
                    resumes = "its verdicts are kept, and the same command resumes from there"
                    stops.append(RainError(f"judge {summary.judge} {reason}; {resumes}"))
            except Exception as error:
                stops.append(error)
            if tick:
                tick()

    await asyncio.gather(*(work() for _ in range(judge.concurrency)))
    summary.calls, summary.retries = judge.calls, judge.retries
    if stops:
        raise stops[0]
