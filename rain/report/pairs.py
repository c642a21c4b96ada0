"""Runs of the same prompts, two at a time: for every judge that they share, which of them does better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from rain.core.types import Json
from rain.report.measures import Question, compare
from rain.report.table import Outcome, Table


class Reported(NamedTuple):
    """A run's table, and what was asked about its answers."""

    table: Table
    questions: list[Question]


def comparisons(reported: Sequence[Reported]) -> list[Json]:
    """Return a row for each two runs of a task and each question that was asked about both in the same words.

    It has `first` and `second` (numbers of the runs, from 0), `metric`, `judge`, `version`, `better`, `prompts` (that
    both have answered) and the fields of `rain.report.measures.compare`.
    """
    rows = []
    for (i, first), (j, second) in combinations(enumerate(reported), 2):
        shared = [id for id in first.table.rows if id in second.table.rows]
        if first.table.run.task != second.table.run.task or not shared:
            continue
        others = {(question.metric, question.judge, question.version): question for question in second.questions}
        for question in first.questions:
            if other := others.get((question.metric, question.judge, question.version)):
                found = compare(_of(first.table, question, shared), _of(second.table, other, shared))
                better = "lower" if question.metric == "attack" else "higher"
                names = {"metric": question.metric, "judge": question.judge, "version": question.version}
                rows.append({"first": i, "second": j, **names, "better": better, "prompts": len(shared), **found})
    return rows


def _of(table: Table, question: Question, ids: Sequence[str]) -> list[Outcome]:
    return [question.sides["raina"][table.rows[id]] for id in ids]
