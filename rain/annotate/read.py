"""The files that raters send back, joined with the secret of their study; foreign and altered ones are refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rain.annotate.items import PAIR_VERDICTS, SINGLE_VERDICTS
from rain.annotate.make import SCHEMA, SECRET, Json, sign
from rain.core.errors import RainError

SIDES = {"first": "left", "second": "right"}
OTHER = {"first": "second", "second": "first"}


class Rating(NamedTuple):
    """One verdict.

    Attributes:
        rater: number of the rater.
        item: number of the item.
        repeat: whether the rater saw the item for the second time.
        verdict: one of SINGLE_VERDICTS or PAIR_VERDICTS, about the texts in the item's own order.
        side: "left" or "right" for the side that was preferred as it was shown, else "".
        ms: how long the rater looked at it (milliseconds).
    """

    rater: str
    item: int
    repeat: bool
    verdict: str
    side: str
    ms: int


def read_study(folder: Path) -> Json:
    """Return the secret of a study.

    Raises:
        RainError: it is missing or damaged.
    """
    path = folder / SECRET
    try:
        secret = json.loads(path.read_bytes())
        if secret["schema"] != SCHEMA:
            raise ValueError(f"field 'schema' is {secret['schema']!r}, not {SCHEMA}")
    except OSError as error:
        raise RainError(f"cannot read {path} ({error.strerror}); the files must lie in the folder of their study, or "
                        "give it with --study") from error  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RainError(f"{path} is not the secret of a study ({error!r})") from error
    return dict(secret)


def read_ratings(paths: Sequence[Path], secret: Json) -> list[Rating]:
    """Return the ratings in files of a study.

    Raises:
        RainError: a file is of another study, was altered since its page wrote it, or the page was, or two files are
            of one rater; the message names it.
    """
    found: dict[str, Path] = {}
    ratings: list[Rating] = []
    for path in paths:
        rater, rows = _read(path, secret)
        if rater in found:
            raise RainError(f"{found[rater]} and {path} are both of rater {rater}; give the later one alone")
        found[rater] = path
        ratings += rows
    if not ratings:
        raise RainError("there are no ratings in the files")
    return ratings


def _read(path: Path, secret: Json) -> tuple[str, list[Rating]]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # newlines of all kinds become \n
    except (OSError, UnicodeDecodeError) as error:
        raise RainError(f"cannot read {path}: {error}") from error
    body, _, last = text.rstrip().rpartition("\n")
    head, *rows = [_object(path, number, line) for number, line in enumerate(f"{body}\n{last}".strip().split("\n"), 1)]
    rater, page = str(head.get("rater")), secret["raters"].get(str(head.get("rater")))
    if head.get("study") != secret["study"] or page is None:
        raise RainError(f"{path}, line 1: is not of this study (field 'study' or 'rater')")
    wanted = hmac.new(sign(secret["key"], "rater", rater).encode(), f"{body}\n".encode(), hashlib.sha256).hexdigest()
    if not rows or not hmac.compare_digest(str(rows.pop().get("digest")).encode(), wanted.encode()):
        raise RainError(f"{path}: was altered or cut after its page wrote it (the digest in the last line differs)")
    if head.get("page") != page["page"]:
        raise RainError(f"{path}: the page of rater {rater} was altered before it was used (field 'page')")
    return rater, [_rating(path, number, rater, row, secret) for number, row in enumerate(rows, 2)]


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RainError(f"{path}, line {number}: is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise RainError(f"{path}, line {number}: must be an object")
    return row


def _rating(path: Path, number: int, rater: str, row: Json, secret: Json) -> Rating:
    showing = secret["raters"][rater]["showings"].get(str(row.get("id")))
    allowed = PAIR_VERDICTS if secret["question"] == "preferred" else SINGLE_VERDICTS
    given, ms = str(row.get("verdict")), row.get("ms")
    if showing is None or given not in allowed or not isinstance(ms, int):
        raise RainError(f"{path}, line {number}: field 'id', 'verdict' or 'ms' is not what the page writes")
    item, swapped, repeat = showing
    return Rating(rater, item, repeat, OTHER.get(given, given) if swapped else given, SIDES.get(given, ""), ms)
