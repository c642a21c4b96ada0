"""The files that raters send back, joined with the secret of their study; foreign and altered ones are refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rain.annotate.make import SCHEMA, SECRET, choices, sign
from rain.core.errors import RainError
from rain.core.types import Json
from rain.judges.base import OTHER


class Rating(NamedTuple):
    """One verdict.

    Attributes:
        rater: number of the rater.
        item: number of the item.
        right: the verdict that the item must get, empty if it is not a gold item.
        repeat: whether the rater saw the item for the second time.
        verdict: what the rater said about the texts in the item's own order (`choices`).
        shown: the same about the texts as they were shown: "first" is the left one.
        ms: how long the rater looked at it (milliseconds).
    """

    rater: str
    item: int
    right: str
    repeat: bool
    verdict: str
    shown: str
    ms: int


def read_study(folder: Path) -> Json:
    """Return the secret of a study; RainError if it is missing or damaged."""
    path = folder / SECRET
    try:
        secret: Json = json.loads(path.read_bytes())
        if secret["schema"] == SCHEMA:
            return secret
        raise ValueError(f"field 'schema' is not {SCHEMA}")
    except OSError as error:
        raise RainError(f"cannot read {path} ({error.strerror}): put the files into their study's folder") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RainError(f"{path} is not the secret of a study ({error!r})") from error


def read_ratings(paths: Sequence[Path], secret: Json) -> list[Rating]:
    """Return the ratings in files of a study.

    Raises:
        RainError: a file is of another study, was altered since its page wrote it, or the page was, or two files are
            of one rater; the message names it.
    """
    found: dict[str, list[Rating]] = {}
    for path in paths:
        try:
            rater, ratings = _read(path.read_text(encoding="utf-8-sig"), secret)  # newlines of all kinds become \n
        except OSError as error:
            raise RainError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = error.args[0] if type(error) is ValueError else "is not what a page saves"
            raise RainError(f"{path} {reason}") from error
        if rater in found:
            raise RainError(f"{path} is the second file of rater {rater}; give the later one alone")
        found[rater] = ratings
    if not any(found.values()):
        raise RainError("there are no ratings in the files")
    return [rating for ratings in found.values() for rating in ratings]


def _read(text: str, secret: Json) -> tuple[str, list[Rating]]:
    body, _, last = text.rstrip().rpartition("\n")
    head, *rows = map(json.loads, body.split("\n"))
    rater = head["rater"]
    if head["study"] != secret["study"] or rater not in secret["raters"]:
        raise ValueError("is of another study")
    wanted = hmac.new(sign(secret["key"], "rater", rater).encode(), f"{body}\n".encode(), hashlib.sha256).hexdigest()
    if json.loads(last).get("digest") != wanted:
        raise ValueError("was altered or cut after its page saved it (the digest in the last line differs)")
    if head["page"] != secret["raters"][rater]["page"]:
        raise ValueError(f"comes from a page that was altered: it is not what rater {rater} was given")
    allowed = {verdict for _, verdict, _ in choices(secret["question"])}
    ratings = []
    for row in rows:
        item, swapped, repeat = secret["raters"][rater]["showings"][row["id"]]
        if (shown := row["verdict"]) not in allowed:
            raise ValueError(f"has a verdict that nobody can give: {shown!r}")
        verdict, right = OTHER.get(shown, shown) if swapped else shown, secret["items"][item][2]
        ratings.append(Rating(rater, item, right, repeat, verdict, shown, int(row["ms"])))
    return rater, ratings
