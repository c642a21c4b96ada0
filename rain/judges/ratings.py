"""ratings:FILE, verdicts that people gave.

FILE is JSONL, one verdict per line: {"id": record, "answer": "raina" or "pa", "ask": "harmless", "verdict": true};
null means that the rater could not decide. About a pair, "answer" is "raina,pa" or "pa,raina", "ask" is "pairwise" and
the verdict "first", "second" or "tie"; a pair that was rated in one order counts for both. With the field "hash"
(`Query.digest`) a row is about these texts, in this order, alone. A row may have the field "rater", and the first line
may be {"rater": ...} alone, like "one rater (the authors), blind": tables name it. The report treats raters like any
other judge.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rain.core.errors import RainError
from rain.judges.base import OTHER, Decision, Judge, JudgeConfig, Query, Verdict
from rain.terminal import one_line

FIELDS = ("id", "answer", "ask", "verdict")
LONGEST_RATER = 80
"""What is kept of the field "rater" (characters)."""


class RatingsJudge(Judge):
    """Looks verdicts up; an answer without a rating gets null.

    Args:
        file: its path; the file's name without the suffix names the judge.
        config: not used.

    Raises:
        RainError: the file is missing, or a line is faulty; the message names it.
    """

    def __init__(self, file: str, config: JudgeConfig) -> None:
        path = Path(file)
        self._ratings, rater = read_ratings(path)
        super().__init__(f"ratings:{path.stem}" + (f", {rater}" if rater else ""))
        version = f"ratings-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
        self.versions = {criterion: version for _, _, criterion in self._ratings}

    async def decide(self, query: Query) -> Verdict:
        """Return the rating."""
        decision, digest = self._ratings.get((query.record, query.side, query.criterion), (None, query.digest))
        return Verdict(decision if digest in (None, query.digest) else None)


def read_ratings(path: Path) -> tuple[dict[tuple[str, str, str], tuple[Decision, object]], str]:
    """Read (verdict, hash) by (record, side, criterion), and who rated, "" if the file does not say."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RainError(f"cannot read the ratings {path}: {error}") from error
    found: dict[tuple[str, str, str], tuple[Decision, object]] = {}
    raters: dict[str, None] = {}
    for number, line in ((number, line) for number, line in enumerate(lines, 1) if line.strip()):
        try:
            row = json.loads(line)
            raters |= dict.fromkeys([one_line(str(row["rater"]))[:LONGEST_RATER]] if "rater" in row else [])
            if not found and row.keys() == {"rater"}:
                continue
            record, side, criterion, verdict = (row[name] for name in FIELDS)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RainError(f"{path}, line {number}: needs the fields {', '.join(FIELDS)} in a JSON object") from error
        if verdict not in ((None, "first", "second", "tie") if criterion == "pairwise" else (None, True, False)):
            raise RainError(
                f"{path}, line {number}: the field 'verdict' must be true, false or null; first, second, tie or null "
                "about a pair"
            )
        found[str(record), str(side), str(criterion)] = bool(verdict) if verdict in (0, 1) else verdict, row.get("hash")
    if not found:
        raise RainError(f"{path} contains no ratings")
    for (record, side, criterion), (decision, digest) in list(found.items()):
        if criterion == "pairwise" and digest is None:
            swapped = OTHER.get(str(decision), decision)
            found.setdefault((record, ",".join(reversed(side.split(","))), criterion), (swapped, None))
    return found, " and ".join(raters)
