"""Texts with the verdicts of people, to measure self-evaluation and judges with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rain.core.errors import RainError
from rain.data.datasets import Fields, Reader, Row, load_prompts
from rain.data.rows import BadRow, text

LABELS = ("label", "jailbroken")


class Labelled(NamedTuple):
    """A text with the verdict of a person: True is what RAIN steers towards."""

    question: str
    response: str
    good: bool


def read_labelled(row: Row) -> Fields:
    """Read question, response (or answer) and label; ``jailbroken`` counts as the opposite of a label."""
    question = text(row, "question", "") or text(row, "goal")
    response = text(row, "response", "") or text(row, "answer")
    for name in LABELS:
        if name in row:
            if row[name] not in (0, 1, True, False):
                raise BadRow(f"the field {name!r} must be true or false, or 1 or 0")
            return Fields(question, {"response": response, "good": bool(row[name]) != (name == "jailbroken")})
    raise BadRow("lacks the field 'label'")


def load_labelled(path: Path) -> list[Labelled]:
    """Load labelled texts; both classes must be there."""
    prompts = load_prompts(path, Reader("labelled", read_labelled))
    texts = [Labelled(prompt.question, prompt.extra["response"], prompt.extra["good"]) for prompt in prompts]
    if len({item.good for item in texts}) < 2:
        raise RainError(f"{path} holds texts of one class only; a preflight needs both")
    return texts
