"""Runs of the same prompts, two at a time: for every judge that they share, which of them does better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rain.core.types import Json
from rain.report.measures import Question, compare
from rain.report.table import Outcome, Table


def comparisons(tables: Sequence[Table], asked: Sequence[Sequence[Question]]) -> list[Json]:
    """Return a row for each two runs of a task and each question that was asked about both in the same words.

    It has `first` and `second` (numbers of the runs, from 0), `metric`, `judge`, `version`, `better`, `prompts` (that
    both have answered) and the fields of `rain.report.measures.compare`.
    """
    rows = []
    for i, j in combinations(range(len(tables)), 2):
        shared = [id for id in tables[i].rows if id in tables[j].rows]
        if tables[i].run.task != tables[j].run.task or not shared:
            continue
        others = {(question.metric, question.judge, question.version): question for question in asked[j]}
        for question in asked[i]:
            if other := others.get((question.metric, question.judge, question.version)):
                found = compare(_of(tables[i], question, shared), _of(tables[j], other, shared))
                rows.append({"first": i, "second": j, **question.names, "prompts": len(shared), **found})
    return rows


def _of(table: Table, question: Question, ids: Sequence[str]) -> list[Outcome]:
    return [question.sides["raina"][table.rows[id]] for id in ids]
