"""Files for runs of the allocation command."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import MANY, QUICK, save_questions
from support.tiny_task import LETTERS, saved

QUESTIONS = ["Is the sea salty?", "Why", "How do I fix a bike?", "Human: what?", "What is kind?", "\u00fc \U0001f600?"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a file of six questions."""
    return save_questions(tmp_path / "data.jsonl", QUESTIONS)


@pytest.fixture
def flags(data: Path, template: Path) -> list[object]:
    """Return the flags of a short run over six questions."""
    return [*QUICK, "--dataset", data, "--templates", template]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a file of so many prompts (MANY) that a run is far from its end when it is seen to have begun."""
    return save_questions(tmp_path / "many.jsonl", [f"What is {number}?" for number in range(MANY)])


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Return a short self-evaluation template."""
    return saved(tmp_path, LETTERS, "letters.txt")
