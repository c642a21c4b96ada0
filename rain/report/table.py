"""What a report keeps of each record and each verdict: a few numbers, so that 100,000 records take little memory."""

from __future__ import annotations

import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from math import isnan, nan
from pathlib import Path
from typing import NamedTuple

from rain.costs import cost_of
from rain.judges.base import Decision
from rain.judges.queries import SIDES, Run, queries_for
from rain.judges.scoring import Key, read_verdicts
from rain.results.jsonl import Record

Columns = dict[str, "array[float]"]
"""Numbers by name, one for each row."""

GRAM = 4
"""Length of the runs of words whose repetition is counted."""


class Outcome(Enum):
    """What a judge says about one answer, by its decision; OPEN: not asked yet, ABSENT: there is no such answer."""

    YES = True
    NO = False
    UNREADABLE = None
    OPEN = "open"
    ABSENT = "absent"


class Judged(NamedTuple):
    """One judge's verdicts about a criterion.

    Attributes:
        version: of the wording.
        decisions: by side, one for each row of the table; OPEN where there is none.
        other_versions: number of verdicts that belong to another wording.
    """

    judge: str
    criterion: str
    version: str
    decisions: Mapping[str, Sequence[Decision | Outcome]]
    other_versions: int


class Table:
    """The answers of a run as columns of numbers; a row is a record, in the order of their ids.

    Args:
        run: whose records are read, once.

    Attributes:
        rows: row of each record by its id.
        model, method: what wrote the answers; the method of records without one is "rain".
        priced: number of records that say what they cost.
        costs: columns of counters by side; NaN where a record has none.
        texts: columns of `words` and `repetition` by side; NaN where there is no answer, or it is too short.
        judged: the verdicts in scores_*.jsonl about the answers as they are now, by judge and criterion; of several
            wordings of a question only the one asked last counts.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.rows = run, dict[str, int]()
        self.model, self.method, self.priced = "unknown", "rain", 0
        count = len(run.records)

        def columns() -> Columns:
            return defaultdict(lambda: array("d", [nan]) * count)

        self.costs: dict[str, Columns] = defaultdict(columns)
        self.texts = {side: columns() for side in SIDES}
        self._digests: dict[tuple[str, str], array[int]] = defaultdict(lambda: array("Q", bytes(8 * count)))
        for row, record in enumerate(islice(run.records, count)):  # of a run in progress there may be more
            self._add(row, record)
        self.judged = [one for path in sorted(run.outdir.glob("scores_*.jsonl")) for one in self._read(path)]

    def _add(self, row: int, record: Record) -> None:
        self.rows[record["id"]] = row
        if row == 0:
            self.method = str(record.get("method") or "rain")
        if self.model == "unknown" and record.get("model"):
            self.model = str(record["model"])
        for query in queries_for(self.run.task, record):
            self._digests[query.side, query.criterion][row] = int(query.digest, 16)
        if isinstance(record.get("cost"), dict):
            self.priced += 1
            for side in record["cost"]:
                for name, value in cost_of(record, side).items():
                    self.costs[side][name][row] = value
        for side in SIDES:
            if isinstance(record.get(side), str):
                words = record[side].split()
                self.texts[side]["words"][row] = len(words)
                self.texts[side]["repetition"][row] = repetition(words)

    def _place(self, key: Key) -> int | None:
        """Return the row that a stored verdict belongs to, None if it is about another text than the present one."""
        row, digests = self.rows.get(key.record), self._digests.get((key.side, key.criterion))
        return row if row is not None and digests and f"{digests[row]:016x}" == key.digest else None

    def _read(self, path: Path) -> list[Judged]:
        def unasked() -> list[Decision | Outcome]:
            return [Outcome.OPEN] * len(self.rows)

        columns: dict[tuple[str, str], dict[str, dict[str, list[Decision | Outcome]]]] = {}
        for judge, key, decision in read_verdicts(path):
            versions = columns.setdefault((judge, key.criterion), {})
            sides = versions[key.version] = versions.pop(key.version, defaultdict(unasked))  # asked last: comes last
            if (row := self._place(key)) is not None:
                sides[key.side][row] = sys.intern(decision) if isinstance(decision, str) else decision
        found = []
        for (judge, criterion), versions in columns.items():
            *others, (version, sides) = versions.items()
            cells = (cell for _, other in others for column in other.values() for cell in column)
            count = sum(cell is not Outcome.OPEN for cell in cells)
            found.append(Judged(judge, criterion, version, sides, count))
        return found

    def outcomes(self, judged: Judged, side: str) -> list[Outcome]:
        """Return one outcome of a yes/no question for each row."""
        cells = zip(judged.decisions[side], self._digests[side, judged.criterion], strict=False)
        return [Outcome(cell) if digest else Outcome.ABSENT for cell, digest in cells]


def repetition(words: Sequence[str]) -> float:
    """Return the share of runs of four words that occurred before in the text, in [0, 1]; NaN for less than one."""
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else nan


def mean(column: Sequence[float] | None) -> float | None:
    """Return the mean of what is known, None if nothing is."""
    found = without_nan(column or ())
    return sum(found) / len(found) if found else None


def without_nan(column: Iterable[float]) -> list[float]:
    """Return the values of a column without its NaN."""
    return [value for value in column if not isnan(value)]
