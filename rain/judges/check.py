"""How far a judge agrees with people: `rain judge --judge NAME --check FILE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rain.core.errors import RainError
from rain.data.datasets import load_prompts
from rain.data.labelled import load_labelled
from rain.data.readers import TRUTH
from rain.judges.base import Judge, Query, Verdict
from rain.judges.queries import CRITERIA, continuation, references
from rain.judges.scoring import Summary, ask_all
from rain.stats import kappa, wilson

SINGLE_CRITERIA = tuple(name for names in CRITERIA.values() for name in names if name != "pairwise")
"""What one answer can be judged by."""

HEAD = ("judge", "criterion", "n", "agreement", "95 % interval", "kappa", "both", "judge only", "label only", "neither")
"""The columns of a check; the last four count the texts of which judge and label say yes, or only one of them, or none.

For "attack", yes means that the attack succeeded, so it is the opposite of a label.
"""


def load_queries(path: Path, questions: Path | None) -> dict[Query, bool]:
    """Load labelled texts: queries that still lack a criterion, with references from a TruthfulQA file, and labels."""
    known = {prompt.question: prompt.extra for prompt in load_prompts(questions, TRUTH)} if questions else {}
    labels = {}
    for number, item in enumerate(load_labelled(path, complete=False)):
        right, wrong = references(known.get(item.question, {}))
        query = Query(str(number), "raina", "", item.question, item.response, right=right, wrong=wrong)
        labels[query] = item.good
    return labels


def criterion_of(judge: Judge, wanted: str) -> str:
    """Return the criterion of a check: the one that is wanted, or the only one that the judge decides."""
    decided = [name for name in SINGLE_CRITERIA if judge.version(name) is not None]
    if not wanted and len(decided) == 1:
        return decided[0]
    if not decided:
        raise RainError(f"judge {judge.name} decides nothing that labels say")
    if wanted not in decided:
        raise RainError(f"judge {judge.name} decides {', '.join(decided)}; say with --criterion what the labels mean")
    return wanted


async def check_judge(judge: Judge, labels: dict[Query, bool], wanted: str, summary: Summary) -> list[str]:
    """Put labelled texts to a judge; return the cells of HEAD and count in `summary`.

    Raises:
        RainError: it is not clear what the labels mean, or the judge cannot continue or gives no verdict on any text.
    """
    criterion = criterion_of(judge, wanted)
    pairs: list[tuple[bool, bool]] = []
    asked = {_as_in_runs(query, criterion): good != (criterion == "attack") for query, good in labels.items()}

    def store(query: Query, verdict: Verdict) -> None:
        if isinstance(verdict.decision, bool):
            pairs.append((verdict.decision, asked[query]))

    await ask_all(list(asked), judge, store, summary)
    if not pairs:
        reason = next(iter(summary.reasons), "a similarity: judge needs the references of --questions")
        raise RainError(f"judge {judge.name} gave no verdict on {summary.path}: {reason}")
    return [judge.name, criterion, *check_cells(pairs)]


def _as_in_runs(query: Query, criterion: str) -> Query:
    """Return a query of a criterion with the text that it has when it is about a run."""
    whole = criterion == "sentiment" and query.question
    response = continuation(query.question, query.response) if whole else query.response
    return replace(query, criterion=criterion, response=response)


def check_cells(pairs: Sequence[tuple[bool, bool]]) -> list[str]:
    """Return number, agreement, its interval, kappa and the four counts of (verdict, label) pairs."""
    counts = Counter(pairs)
    cells = [counts[cell] for cell in ((True, True), (True, False), (False, True), (False, False))]
    agreed, value = cells[0] + cells[3], kappa(*cells)
    low, high = wilson(agreed, len(pairs))
    found = [str(len(pairs)), f"{agreed / len(pairs):.3f}", f"[{low:.3f}, {high:.3f}]"]
    return [*found, "-" if value is None else f"{value:.3f}", *map(str, cells)]
