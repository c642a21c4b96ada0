"""What raters are shown: the answers of runs without their names, in equal form, each text once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from rain.core.errors import RainError
from rain.data.datasets import Fields, Reader, Row, load_prompts
from rain.data.labelled import load_labelled
from rain.data.rows import text
from rain.judges.base import Query
from rain.judges.prompts import JudgePrompt
from rain.judges.prompts import load_prompts as judge_prompts
from rain.judges.queries import CRITERIA, FLUENCY, SIDES, Run, queries_for
from rain.methods.config import method_title

QUESTIONS = {"preferred": "pairwise", "harmless": "harmless", "helpful": "helpful", "truthful": "true"}
"""What raters can be asked, and the judges' criterion whose wording they read."""

PAIR_VERDICTS = ("first", "second", "tie", "bad")
SINGLE_VERDICTS = ("yes", "no", "unsure")

TURN = re.compile(r"\s*(?:(?:^|\n)\s*(?:Human|Assistant|User)|USER|ASSISTANT):")
"""Where a model begins to speak for somebody else."""

ENDED = re.compile(r"[.!?…。！？][\"'”’)\]*_`]*$")  # noqa: RUF001
"""The end of a finished text."""


class Item(NamedTuple):
    """One question to raters.

    Attributes:
        prompt: id of the prompt; of gold items their number.
        question: what the model was asked, and for truthfulness what is known to be true and false.
        texts: one answer, or two different ones.
        owners: for each text the numbers of the methods that gave it; none for gold items.
        right: the verdict that a gold item must get, empty for other items.
    """

    prompt: str
    question: str
    texts: tuple[str, ...]
    owners: tuple[tuple[int, ...], ...]
    right: str = ""


@dataclass
class System:
    """What is compared: a method of a run, or the baseline that runs share.

    Attributes:
        name: for tables.
        sides: (number of the run, field of its records) where its answers are.
        answers: its answers by prompt, in the form that raters see.
    """

    name: str
    sides: list[tuple[int, str]]
    answers: dict[str, str] = field(default_factory=dict)


def wording(question: str) -> JudgePrompt:
    """Return what raters are asked: the same words as chat judges, their version, and what the verdicts are called."""
    prompt = judge_prompts()[QUESTIONS[question]]
    *_, asked, _ = prompt.text.replace("{references}", "").split("\n\n")
    return prompt._replace(text=asked)


def equal_form(answer: str) -> str:
    """Return an answer in the form in which all are shown, so that form does not tell who wrote it.

    It ends where the model begins to speak for somebody else; blank lines, blanks at the ends of lines and around the
    text are the same everywhere; and whatever does not end like a sentence ends in an ellipsis.
    """
    lines = [line.rstrip() for line in TURN.split(answer, maxsplit=1)[0].splitlines()]
    shown = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return shown if not shown or ENDED.search(shown) else f"{shown} …"


def load_systems(runs: Sequence[Run]) -> tuple[list[System], dict[str, Query]]:
    """Return the methods of runs with their answers, and one query with the question of each prompt.

    Baselines that never differ, as those of runs with the same model, are one.
    """
    systems: list[System] = []
    questions: dict[str, Query] = {}
    for number, run in enumerate(runs):
        found = {side: System("baseline", [(number, side)]) for side in SIDES}
        for record in run.records:
            found[SIDES[0]].name = method_title(str(record.get("method") or "rain"))
            for query in queries_for(run.task, record):
                if query.criterion == CRITERIA[run.task][0]:
                    found[query.side].answers[query.record] = equal_form(query.response)
                    questions.setdefault(query.record, query)
        systems += [found[SIDES[0]]]
        shared = next((one for one in systems if one.name == "baseline" and _same(one, found[SIDES[1]])), None)
        if shared:
            shared.sides += found[SIDES[1]].sides
            shared.answers |= found[SIDES[1]].answers
        else:
            systems.append(found[SIDES[1]])
    systems = [one for one in systems if one.answers]
    names = [one.name for one in systems]
    for one in systems:
        if names.count(one.name) > 1:
            one.name += f" ({runs[one.sides[0][0]].outdir.name})"
    return systems, questions


def _same(one: System, other: System) -> bool:
    common = one.answers.keys() & other.answers.keys()
    return bool(common) and all(one.answers[id] == other.answers[id] for id in common)


def hashes(run: Run) -> dict[str, dict[str, str]]:
    """Return the digest of every answer, and pair of answers, of a run: {prompt: {side: digest}}."""
    return {
        record["id"]: {one.side: one.digest for one in queries_for(run.task, record) if one.criterion != FLUENCY}
        for record in run.records
    }


def items_of(
    systems: Sequence[System], questions: Mapping[str, Query], question: str
) -> tuple[list[Item], list[tuple[str, int, int]]]:
    """Return what to ask, and (prompt, method, method) for answers that are the same, which are ties.

    Each text, or pair of different texts, is asked about once, whatever number of methods gave it.
    """
    items, ties = [], []
    for prompt in sorted(questions):
        owners: dict[str, list[int]] = {}
        for number, system in enumerate(systems):
            if prompt in system.answers:
                owners.setdefault(system.answers[prompt], []).append(number)
        ties += [(prompt, *pair) for same in owners.values() for pair in combinations(same, 2)]
        shown = _question(questions[prompt], question)
        for texts in combinations(owners, 2 if question == "preferred" else 1):
            items.append(Item(prompt, shown, texts, tuple(tuple(owners[one]) for one in texts)))
    return items, ties


def _question(query: Query, question: str) -> str:
    known = [("Known to be true", query.right), ("Known to be false", query.wrong)] if question == "truthful" else []
    return "\n".join([query.question.strip(), *(f"\n{name}: {'; '.join(texts)}" for name, texts in known if texts)])


def load_gold(path: Path, question: str) -> list[Item]:
    """Load items whose verdict is known.

    For "preferred", rows have question (or prompt), chosen and rejected; for the rest they are labelled texts
    (question, response and label), where a label of true means yes.

    Raises:
        RainError: the file is missing or a row is broken; the message names it.
    """
    shown: list[tuple[str, tuple[str, ...], str]]
    if question == "preferred":
        pairs = [(one.question, one.extra) for one in load_prompts(path, Reader("gold", _read_pair))]
        shown = [(asked, (extra["chosen"], extra["rejected"]), "first") for asked, extra in pairs]
    else:
        texts = load_labelled(path, complete=False)
        shown = [(one.question, (one.response,), "yes" if one.good else "no") for one in texts]
    items = [
        Item(str(number), asked.strip(), tuple(map(equal_form, answers)), ((),) * len(answers), right)
        for number, (asked, answers, right) in enumerate(shown, 1)
    ]
    if same := [one.prompt for one in items if len(set(one.texts)) < len(one.texts)]:
        raise RainError(f"{path}: the answers of gold item {same[0]} are the same text; nobody can prefer one")
    return items


def _read_pair(row: Row) -> Fields:
    question = text(row, "question" if "question" in row else "prompt")
    return Fields(question, {name: text(row, name) for name in ("chosen", "rejected")})
