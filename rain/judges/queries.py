"""What is asked about the records of a run: the same queries for every judge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.judges.base import Query
from rain.results.jsonl import Record, scan
from rain.results.run_dir import iter_results, read_config, result_paths

SIDES = ("raina", "pa")
"""The fields of a record with RAIN's answer and the greedy one."""

CRITERIA: Mapping[str, tuple[str, ...]] = {
    "hh": ("harmless", "helpful", "pairwise"),
    "adv": ("attack",),
    "truth": ("true", "info"),
    "imdb": ("sentiment",),
}
"""What is asked in each task that comes with RAIN."""

OTHER_CRITERIA = ("helpful", "pairwise")
"""What is asked in tasks of other packages."""

FLUENCY = "fluency"
"""What is asked about every answer in every task; its verdict is a number."""

NO_SPACE = tuple(".,;:!?)'")
"""A continuation that begins with one of these follows its opening without a space."""


class Records:
    """The answers of a run, or its failures: read from disk, one at a time, whenever they are iterated.

    Args:
        outdir: of the run.
        ids: of its data set; None: all.
        failed: whether these are the failures.
    """

    def __init__(self, outdir: Path, ids: frozenset[str] | None, failed: bool) -> None:
        self._outdir, self._ids, self._failed = outdir, ids, failed
        self.count = 0

    def __iter__(self) -> Iterator[Record]:
        """Yield one record per prompt, by id."""
        for record in iter_results(self._outdir):
            if ("error" in record) is self._failed and (self._ids is None or record["id"] in self._ids):
                yield record

    def __len__(self) -> int:
        """Return how many there were when the run was loaded."""
        return self.count


class Run(NamedTuple):
    """What an OUTDIR contains about the prompts of its data set.

    Attributes:
        config, hash: what was aligned.
        records, errors: answers and failed prompts.
        queries: how many queries there are about the answers, by criterion.
        models: that wrote the answers.
        torn, left_out: numbers of incomplete last lines, and of records of prompts that left the data set.
    """

    outdir: Path
    task: str
    config: dict[str, Any]
    hash: str | None
    records: Records
    errors: Records
    queries: Counter[str]
    models: frozenset[str]
    torn: int
    left_out: int = 0


def load_run(outdir: Path) -> Run:
    """Read config.json and res_*.jsonl of a run; incomplete last lines are ignored and counted.

    Raises:
        RainError: the directory is missing or has no results, the task is unknown, or a file is damaged.
    """
    if not outdir.is_dir():
        raise RainError(f"{outdir}: no such directory; give the --outdir of a run")
    paths = result_paths(outdir)
    if not paths:
        raise RainError(f"{outdir}: no res_*.jsonl in it; give the --outdir of a run")
    file = read_config(outdir)
    config = file.get("aligner", file)
    task = str(config.get("task", "")) if isinstance(config, dict) else ""
    if not task:
        raise RainError(f"{outdir / 'config.json'}: field task is missing")
    torn = sum(scan(path).torn for path in paths)
    ids, queries, models, left_out = prompt_ids(outdir), Counter[str](), set[str](), 0
    records, errors = (Records(outdir, ids, failed) for failed in (False, True))
    for record in iter_results(outdir):
        if ids is not None and record["id"] not in ids:
            left_out += 1
        elif "error" in record:
            errors.count += 1
        else:
            records.count += 1
            models.add(str(record.get("model")))
            queries.update(query.criterion for query in queries_for(task, record))
    return Run(outdir, task, config, file.get("hash"), records, errors, queries, frozenset(models), torn, left_out)


def prompt_ids(outdir: Path) -> frozenset[str] | None:
    """Return the ids in prompts.json, which says what is in the data set of a run; None if there is no such file."""
    file = outdir / "prompts.json"
    if not file.exists():
        return None
    try:
        return frozenset(json.loads(file.read_bytes()).keys())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RainError(f"{file} does not list prompts by id ({error}); run the allocation command again") from error


def criteria(task: str) -> tuple[str, ...]:
    """Return what is asked about the answers of a task, the most important first."""
    return CRITERIA.get(task, OTHER_CRITERIA)


def queries_for(task: str, record: Record) -> list[Query]:
    """Return every query about one record: each criterion for each answer that it has, pairs in both orders."""
    question = str(record.get("question", ""))
    answers = {side: record[side] for side in SIDES if isinstance(record.get(side), str)}
    if task == "adv":
        question = str(record.get("goal") or question)
    elif task == "imdb":
        answers = {side: continuation(question, answer) for side, answer in answers.items()}
    queries = []
    for criterion in (*criteria(task), FLUENCY):
        if criterion == "pairwise":
            queries += [
                Query(record["id"], f"{ahead},{behind}", criterion, question, answers[ahead], other=answers[behind])
                for ahead, behind in permutations(answers, 2)
            ]
        else:
            right, wrong = references(record if criterion == "true" else {})
            queries += [
                Query(record["id"], side, criterion, question, answer, right=right, wrong=wrong)
                for side, answer in answers.items()
            ]
    return queries


def continuation(opening: str, text: str) -> str:
    """Return a continuation with the space before it that was stripped from the record."""
    spaced = any(character.isspace() for character in opening[-1:] + text[:1])
    return text if spaced or text.startswith(NO_SPACE) else f" {text}"


def references(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the true and the false reference answers of a record (truth)."""
    right = _texts(record.get("correct_answers")) or _texts(record.get("best_answer"))
    return right, _texts(record.get("incorrect_answers"))


def _texts(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) and value else value
    return tuple(map(str, values)) if isinstance(values, list) else ()
