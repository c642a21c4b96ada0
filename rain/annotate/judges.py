"""Raters next to judges: `ratings:` files for `rain judge`, and how far each judge of a run agrees with the raters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rain.annotate.items import QUESTIONS
from rain.annotate.score import agreed, compared, settled, single
from rain.annotate.statistics import cohen, known
from rain.core.types import Json
from rain.judges.base import OTHER, Decision
from rain.judges.queries import SIDES, criteria
from rain.judges.scoring import latest_verdicts
from rain.report.measures import pair_result
from rain.report.table import Outcome
from rain.results.jsonl import encode_json

GOOD = {"harmless": True, "attack": False, "helpful": True, "true": True}
"""Judges' criteria of single answers, and which verdict is the good one."""

PAIR, SWAPPED = ",".join(SIDES), ",".join(reversed(SIDES))

Human = dict[tuple[str, str], Decision]
"""Verdicts on a run's answers by prompt and side; True is good. For PAIR: "first", "second", "tie" or "identical"."""


def human(secret: Json, verdicts: Mapping[int, str], run: int) -> Human:
    """Return what the raters say about the answers of one run; for pairs about its method and the greedy answers."""
    own = {side: i for i, one in enumerate(secret["systems"]) for where, side in one["sides"] if where == run}
    known_here, found = secret["hashes"][run], Human()
    if secret["question"] != "preferred":
        outcomes = single(secret, verdicts)
        for side, i in own.items():
            found |= {(id, side): outcome.value for id, outcome in outcomes[i].items() if id in known_here}
        return found
    wanted = tuple(own.get(side) for side in SIDES)
    for prompt, i, j, verdict in compared(secret, verdicts):
        if prompt in known_here and (i, j) in (wanted, wanted[::-1]):
            found[prompt, PAIR] = settled(verdict if (i, j) == wanted else OTHER.get(verdict, verdict))
    return found


def ratings_file(secret: Json, found: Human, run: int, raters: int) -> bytes | None:
    """Return a file for the judge `ratings:`; None if judges are not asked about this in the task of the run.

    Each row has the digest of what was rated, so that it never counts for other texts.
    """
    criterion = next((name for name in QUESTIONS[secret["question"]] if name in criteria(secret["task"])), None)
    if criterion is None or not found:
        return None
    rows: list[Json] = [{"rater": f"{raters} blind rater{'s' if raters > 1 else ''}, {secret['version']}"}]
    for (prompt, side), verdict in sorted(found.items()):
        verdict = "tie" if verdict == "identical" else verdict
        orders = {side: verdict} if side != PAIR else {PAIR: verdict, SWAPPED: OTHER.get(str(verdict), verdict)}
        for shown, given in orders.items():
            given = given is GOOD[criterion] if isinstance(given, bool) else given
            digest = secret["hashes"][run][prompt][shown]
            rows.append({"id": prompt, "answer": shown, "ask": criterion, "verdict": given, "hash": digest})
    return b"".join(encode_json(row) + b"\n" for row in rows)


def judge_rows(secret: Json, found: Human, run: int, own: str) -> Iterator[Json]:
    """Yield the agreement of each judge of a run with the raters, identical answers left out.

    Args:
        secret: of the study.
        found: what the raters say.
        run: its number.
        own: what the judge is called that has these very ratings; it is left out.
    """
    stored: dict[tuple[str, str], Human] = {}
    for path in sorted(Path(secret["runs"][run]).glob("scores_*.jsonl")):
        for judge, key, decision in latest_verdicts(path):
            decisions = stored.setdefault((judge, key.criterion), {})
            if secret["hashes"][run].get(key.record, {}).get(key.side) == key.digest:
                decisions[key.record, key.side] = decision
    for (judge, criterion), decisions in stored.items():
        asked = _as_asked(secret["question"], criterion, decisions)
        both = [(str(found[key]), str(asked[key])) for key in sorted(found.keys() & asked.keys())
                if found[key] not in (None, "identical") and asked[key] is not None]  # fmt: skip
        if both and judge.partition(",")[0] != own:
            row = {"judge": judge, "criterion": criterion, "run": secret["runs"][run], "agrees": agreed(both)}
            decided = agreed([pair for pair in both if "tie" not in pair])
            yield {**row, "kappa": known(cohen(both)), "agrees_without_ties": decided}


def _as_asked(question: str, criterion: str, decisions: Human) -> Human:
    """Return a judge's verdicts as those of raters; a judge of single answers prefers the only one that is good."""
    good = {key: None if one is None else one is GOOD[criterion] for key, one in decisions.items() if criterion in GOOD}
    if question != "preferred":
        return {**good} if criterion in QUESTIONS[question] else {}
    found = Human()
    for prompt in {prompt for prompt, _ in decisions}:
        if criterion == "pairwise":
            result = pair_result(*(decisions.get((prompt, order), Outcome.OPEN) for order in (PAIR, SWAPPED)))
            found[prompt, PAIR] = {"win": "first", "lose": "second", "tie": "tie"}.get(result)
        elif None not in (pair := [good.get((prompt, side)) for side in SIDES]):
            found[prompt, PAIR] = "tie" if pair[0] == pair[1] else "first" if pair[0] else "second"
    return found
