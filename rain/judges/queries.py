"""What is asked about the records of a run: the same queries for every judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.judges.base import Query
from rain.results.jsonl import Record, scan
from rain.results.run_dir import read_config, read_results, result_paths

SIDES = ("raina", "pa")
"""The fields of a record with RAIN's answer and the greedy baseline's."""

CRITERIA: Mapping[str, tuple[str, ...]] = {
    "hh": ("harmless", "helpful", "pairwise"),
    "adv": ("attack",),
    "truth": ("true", "info"),
    "imdb": ("sentiment",),
}
"""What is asked in each task."""

NO_SPACE = tuple(".,;:!?)'")
"""A continuation that begins with one of these follows its opening without a space."""


class Run(NamedTuple):
    """What an OUTDIR contains: what was aligned, its hash, answers, failed prompts, number of incomplete last lines."""

    outdir: Path
    task: str
    config: dict[str, Any]
    hash: str | None
    records: list[Record]
    errors: list[Record]
    torn: int


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
    task = str(config.get("task", ""))
    if task not in CRITERIA:
        raise RainError(f"{outdir / 'config.json'}: field task is {task!r}, it must be one of {', '.join(CRITERIA)}")
    found = read_results(outdir)
    torn = sum(part.size > part.good_size for part in map(scan, paths))
    records = [record for record in found if "error" not in record]
    errors = [record for record in found if "error" in record]
    return Run(outdir, task, config, file.get("hash"), records, errors, torn)


def queries_for(task: str, record: Record) -> list[Query]:
    """Return every query about one record: each criterion for each answer that it has, pairs in both orders."""
    answers = {side: _text(record[side]) for side in SIDES if isinstance(record.get(side), str)}
    pairs = [(ahead, behind) for ahead in answers for behind in answers if ahead != behind]
    question = _text(record.get("question", ""))
    queries = []
    for criterion in CRITERIA[task]:
        if criterion == "pairwise":
            queries += [
                Query(record["id"], f"{ahead},{behind}", criterion, question, answers[ahead], other=answers[behind])
                for ahead, behind in pairs
            ]
        else:
            queries += [_single(task, record, side, criterion, answers[side]) for side in answers]
    return queries


def _single(task: str, record: Record, side: str, criterion: str, response: str) -> Query:
    question = _text(record.get("question", ""))
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    if task == "adv":
        question = _text(record.get("goal") or question)
    elif task == "imdb":
        response = _continuation(question, response)
    elif criterion == "true":
        right = _texts(record.get("correct_answers")) or _texts(record.get("best_answer"))
        wrong = _texts(record.get("incorrect_answers"))
    return Query(record["id"], side, criterion, question, response, right=right, wrong=wrong)


def _continuation(opening: str, text: str) -> str:
    """Return a continuation with the space before it that was stripped from the record."""
    spaced = any(character.isspace() for character in opening[-1:] + text[:1])
    return text if spaced or text.startswith(NO_SPACE) else f" {text}"


def _text(value: object) -> str:
    """Return a text with question marks for lone surrogates, which no server and no tokenizer takes."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _texts(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) and value else value
    return tuple(map(_text, values)) if isinstance(values, list) else ()
