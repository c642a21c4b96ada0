"""Texts labelled by people, to measure self-evaluation and judges."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

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
    raise BadRow("field 'label' is missing (rain preflight --label FILE asks for it)")


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
