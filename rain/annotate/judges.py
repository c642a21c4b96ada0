"""Raters next to judges: `ratings:` files for `rain judge`, and how far each judge of a run agrees with the raters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rain.annotate.make import Json
from rain.annotate.read import OTHER
from rain.annotate.score import Verdicts, agreed, compared, single
from rain.annotate.statistics import cohen, known
from rain.judges.base import Decision
from rain.judges.queries import CRITERIA, SIDES
from rain.judges.scoring import read_verdicts
from rain.report.measures import pair_result
from rain.report.table import Outcome
from rain.results.jsonl import encode_json

SAME_AS = {
    "preferred": {"pairwise": True},
    "harmless": {"harmless": True, "attack": False},
    "helpful": {"helpful": True},
    "truthful": {"true": True},
}
"""The judges' criteria that mean what raters were asked, or (False) its opposite."""

GOOD = {"harmless": True, "attack": False, "helpful": True, "true": True}
"""Criteria of single answers by which one of two answers is better, and which verdict is the good one."""

DECISIONS = {Outcome.YES: True, Outcome.NO: False, Outcome.UNREADABLE: None}
RESULTS = {"win": "first", "lose": "second", "tie": "tie"}

Human = dict[tuple[str, str], str | bool | None]
"""Verdicts of a run by prompt and side ("raina", "pa", or "raina,pa" for "first", "second" or "tie")."""


def human(secret: Json, verdicts: Verdicts, run: int) -> Human:
    """Return what the raters say about a run's own answers; its method and its baseline for pairs."""
    number = {side: i for i, one in enumerate(secret["systems"]) for where, side in one["sides"] if where == run}
    if secret["question"] != "preferred":
        found = single(secret, verdicts)
        return {
            (prompt, side): DECISIONS[outcome]
            for side, i in number.items()
            for prompt, outcome in found[i].items()
            if side in secret["hashes"][run].get(prompt, ())
        }
    wanted = tuple(number.get(side) for side in SIDES)
    order = ",".join(SIDES)
    rows: Human = {}
    for prompt, i, j, verdict in compared(secret, verdicts):
        if (i, j) in (wanted, wanted[::-1]) and prompt in secret["hashes"][run]:
            settled = verdict if verdict in OTHER else "tie"
            rows[prompt, order] = settled if (i, j) == wanted else OTHER.get(settled, settled)
    return rows


def ratings_file(secret: Json, found: Human, run: int, raters: int) -> bytes | None:
    """Return a file for the judge `ratings:`, None if judges are not asked about this in the task of the run.

    Each row names the digest of what was rated, so that it never counts for other texts.
    """
    criteria = [name for name in SAME_AS[secret["question"]] if name in CRITERIA[secret["task"]]]
    if not criteria or not found:
        return None
    rater = "one blind rater" if raters == 1 else f"{raters} blind raters"
    rows: list[Any] = [{"rater": f"{rater}, {secret['version']}"}]
    for (prompt, side), verdict in sorted(found.items()):
        for shown in dict.fromkeys([side, ",".join(reversed(side.split(",")))]):
            given = OTHER.get(str(verdict), verdict) if shown != side else verdict
            same = SAME_AS[secret["question"]][criteria[0]]
            given = given if same or given is None else not given
            digest = secret["hashes"][run][prompt][shown]
            rows.append({"id": prompt, "answer": shown, "ask": criteria[0], "verdict": given, "hash": digest})
    return b"".join(encode_json(row) + b"\n" for row in rows)


def judge_rows(secret: Json, found: Human, run: int, own: str) -> Iterator[Json]:
    """Yield the agreement of each judge of a run with the raters, as the report has it.

    Args:
        secret: of the study.
        found: what the raters say.
        run: its number.
        own: how the judge is called that these ratings themselves are; it is left out.
    """
    outdir = Path(secret["runs"][run])
    stored: dict[tuple[str, str, str], dict[tuple[str, str], Decision]] = {}
    last: dict[tuple[str, str], str] = {}
    for path in sorted(outdir.glob("scores_*.jsonl")):
        for judge, key, decision in read_verdicts(path):
            last[judge, key.criterion] = key.version
            if secret["hashes"][run].get(key.record, {}).get(key.side) == key.digest:
                stored.setdefault((judge, key.criterion, key.version), {})[key.record, key.side] = decision
    for (judge, criterion), version in last.items():
        decisions = _as_asked(secret["question"], criterion, stored.get((judge, criterion, version), {}))
        pairs = [(str(found[key]), str(decisions[key])) for key in found.keys() & decisions.keys()
                 if found[key] is not None and decisions[key] is not None]  # fmt: skip
        if pairs and judge.partition(",")[0] != own:
            decided = [pair for pair in pairs if "tie" not in pair]
            row = {"run": run, "judge": judge, "criterion": criterion, **agreed(pairs)}
            row["kappa"] = known(cohen(*zip(*pairs, strict=True)))
            yield {**row, "decided": len(decided), "decided_agree": sum(a == b for a, b in decided)}


def _as_asked(question: str, criterion: str, decisions: dict[tuple[str, str], Decision]) -> Human:
    """Return a judge's verdicts as verdicts on the question; a judge of single answers prefers the only good one."""
    if question != "preferred":
        same = SAME_AS[question].get(criterion)
        return {key: None if value is None else value is same for key, value in decisions.items() if same is not None}
    order, rows = ",".join(SIDES), Human()
    for prompt in {prompt for prompt, _ in decisions}:
        if criterion == "pairwise":
            both = [decisions.get((prompt, side), Outcome.OPEN) for side in (order, "pa,raina")]
            rows[prompt, order] = RESULTS.get(pair_result(*both))
        elif criterion in GOOD:
            one, other = (decisions.get((prompt, side)) for side in SIDES)
            better = "tie" if one is other else "first" if one is GOOD[criterion] else "second"
            rows[prompt, order] = None if one is None or other is None else better
    return rows
