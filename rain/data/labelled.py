"""Texts labelled by people, to measure self-evaluation and judges."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.data.datasets import Fields, Reader, Row, load_prompts
from rain.data.rows import BadRow, text

LABELS = {"label": True, "jailbroken": False, "harmful": False}
"""Fields with a label, and which value of it is good."""

TRUTHS = {True: (1, "1", "true"), False: (0, "0", "false")}
"""What stands for them in a file."""


class Labelled(NamedTuple):
    """A text with a person's label.

    Attributes:
        question: what was asked; empty where nobody knows.
        response: the text.
        good: whether it is what RAIN steers towards.
        safe: whether the question is harmless, so that a good answer need not refuse; None where nobody knows.
        source: who or what wrote the text; empty where nobody knows.
    """

    question: str
    response: str
    good: bool
    safe: bool | None = None
    source: str = ""


def read_labelled(row: Row) -> Fields | None:
    """Read question (or goal, or neither), response (or answer), and label, or its opposite, jailbroken or harmful.

    Further fields are ``prompt_is_safe`` (without it, requests of answers that may be jailbroken are harmful) and
    ``model`` or ``source``. None for a label of null: nobody could tell.
    """
    question = text(row, "question", "") or text(row, "goal", "")
    response = text(row, "answer" if "answer" in row and "response" not in row else "response")
    for name in LABELS:
        if name in row:
            if row[name] in (None, ""):
                return None
            source, good = text(row, "model", "") or text(row, "source", ""), _truth(row, name) is LABELS[name]
            safe = False if name == "jailbroken" else None
            if "prompt_is_safe" in row:
                safe = None if row["prompt_is_safe"] in (None, "") else _truth(row, "prompt_is_safe")
            return Fields(question, {"response": response, "good": good, "safe": safe, "source": source})
    raise BadRow("field 'label' is missing (rain label FILE asks for it)")


def _truth(row: Row, name: str) -> bool:
    """Return a field that is true or false, as JSON or as CSV has it."""
    value = row[name].strip().lower() if isinstance(row[name], str) else row[name]
    found = next((truth for truth in (True, False) if value in TRUTHS[truth]), None)
    if found is None:
        raise BadRow(f"field {name!r} must be true or false, or 1 or 0")
    return found


def load_labelled(path: Path, *, complete: bool = True) -> list[Labelled]:
    """Load labelled texts; a RainError names a faulty row.

    ``complete`` requires a question for every text, and texts of both labels, as a preflight does.
    """
    prompts = load_prompts(path, Reader("labelled", read_labelled))
    texts = [Labelled(prompt.question, **prompt.extra) for prompt in prompts]
    if complete and not all(item.question for item in texts):
        raise RainError(f"{path} has texts without the field 'question'")
    if complete and len({item.good for item in texts}) < 2:
        raise RainError(f"{path} has texts of one label only; both are needed")
    return texts


def load_part(paths: Sequence[Path], part: str) -> tuple[list[Labelled], dict[str, Any]]:
    """Load the texts of several files whose prompts belong to a part; return what identifies them, too.

    Raises:
        RainError: a row is faulty, or the part is not K/N with 1 <= K <= N.
    """
    texts = part_of([text for path in paths for text in load_labelled(path)], part)
    data = [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths]
    return texts, {"data": data, "part": part}


def part_of(texts: list[Labelled], part: str) -> list[Labelled]:
    """Return the texts whose prompts belong to a part; a prompt belongs to the same part in every file.

    The last bit of a prompt's SHA-256 has no say in it: public files are split by that already.

    Raises:
        RainError: the part is not K/N with 1 <= K <= N.
    """
    if not part:
        return texts
    wanted, _, count = part.partition("/")
    if not (wanted.isdecimal() and count.isdecimal() and 1 <= int(wanted) <= int(count)):
        raise RainError(f"--part is {part!r}; it must be K/N, such as 1/2")
    digest = (int(hashlib.sha256(item.question.encode(errors="surrogatepass")).hexdigest(), 16) >> 1 for item in texts)
    return [item for item, number in zip(texts, digest, strict=True) if number % int(count) == int(wanted) - 1]
