"""What raters are shown: the answers of runs without their names, in equal form, each text once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from rain.data.datasets import Fields, Reader, Row, load_prompts
from rain.data.labelled import load_labelled
from rain.data.rows import text
from rain.judges.base import Query
from rain.judges.prompts import JudgePrompt
from rain.judges.prompts import load_prompts as judge_prompts
from rain.judges.queries import FLUENCY, SIDES, Run, criteria, queries_for
from rain.methods.config import method_title

QUESTIONS = {
    "preferred": ("pairwise",),
    "harmless": ("harmless", "attack"),
    "helpful": ("helpful",),
    "truthful": ("true",),
}
"""What raters can be asked: the judges' criterion whose wording they read, and one that means the opposite."""

TURN = re.compile(r"\s*(?:(?:^|\n)\s*(?:Human|Assistant|User)|USER|ASSISTANT):")
"""Where a model begins to speak for somebody else."""

ENDED = re.compile(r"[.!?…。！？][\"'”’)\]*_`]*$")  # noqa: RUF001
"""The end of a finished text."""

GREEDY = "greedy"
"""What the answers are called that every run has besides those of its method."""


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


class System(NamedTuple):
    """What is compared: its name, the (run, field of the records) with its answers, and these by prompt."""

    name: str
    sides: list[tuple[int, str]]
    answers: dict[str, str]


class Answers(NamedTuple):
    """What runs have: methods, a query with the question of each prompt, and for each run {prompt: {side: digest}}."""

    systems: list[System]
    questions: dict[str, Query]
    hashes: list[dict[str, dict[str, str]]]


def wording(question: str) -> JudgePrompt:
    """Return what raters are asked: the same words as chat judges, their version, and what the verdicts are called."""
    prompt = judge_prompts()[QUESTIONS[question][0]]
    *_, asked, _ = prompt.text.replace("{references}", "").split("\n\n")
    return prompt._replace(text=asked)


def equal_form(answer: str) -> str:
    """Return an answer in the form in which all are shown, so that form does not tell who wrote it.

    It ends where the model begins to speak for somebody else; blank lines, blanks at the ends of lines and around the
    text are the same everywhere; and what does not end like a sentence ends in an ellipsis, not in half a character.
    """
    lines = [line.rstrip() for line in TURN.split(answer, maxsplit=1)[0].splitlines()]
    shown = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\ufffd \n")
    return shown if not shown or ENDED.search(shown) else f"{shown} …"


def load_answers(runs: Sequence[Run]) -> Answers:
    """Return the answers of runs; greedy ones that never differ, as in runs with the same model, are one method."""
    found = Answers([], {}, [{} for _ in runs])
    for number, run in enumerate(runs):
        method, answers = "rain", {side: dict[str, str]() for side in SIDES}
        for record in run.records:
            method = str(record.get("method") or method)
            for query in (query for query in queries_for(run.task, record) if query.criterion != FLUENCY):
                found.hashes[number].setdefault(query.record, {}).setdefault(query.side, query.digest)
                if query.criterion == criteria(run.task)[0]:
                    answers[query.side][query.record] = equal_form(query.response)
                    found.questions.setdefault(query.record, query)
        _add(found.systems, System(method_title(method), [(number, SIDES[0])], answers[SIDES[0]]))
        _add(found.systems, System(GREEDY, [(number, SIDES[1])], answers[SIDES[1]]))
    names = [one.name for one in found.systems]
    for i, one in enumerate(found.systems):
        if names.count(one.name) > 1:
            found.systems[i] = one._replace(name=f"{one.name} ({runs[one.sides[0][0]].outdir.name})")
    return found


def _add(systems: list[System], new: System) -> None:
    for one in (one for one in systems if one.name == new.name == GREEDY):
        common = one.answers.keys() & new.answers.keys()
        if common and all(one.answers[id] == new.answers[id] for id in common):
            one.sides.extend(new.sides)
            one.answers.update(new.answers)
            return
    if new.answers:
        systems.append(new)


def items_of(found: Answers, question: str) -> tuple[list[Item], list[tuple[str, int, int]]]:
    """Return what to ask, and (prompt, method, method) for answers that are the same, which are ties.

    Each text, or pair of different texts, is asked about once, whatever number of methods gave it.
    """
    items, ties = [], []
    for prompt, query in sorted(found.questions.items()):
        owners: dict[str, list[int]] = {}
        for number, system in enumerate(found.systems):
            if prompt in system.answers:
                owners.setdefault(system.answers[prompt], []).append(number)
        ties += [(prompt, *pair) for same in owners.values() for pair in combinations(same, 2)]
        shown = query.question.strip()
        for name, texts in (("true", query.right), ("false", query.wrong)):
            shown += f"\n\nKnown to be {name}: {'; '.join(texts)}" if texts and question == "truthful" else ""
        for pair in combinations(owners, 2 if question == "preferred" else 1):
            items.append(Item(prompt, shown, pair, tuple(tuple(owners[one]) for one in pair)))
    return items, ties


def load_gold(path: Path, question: str) -> list[Item]:
    """Load items whose verdict is known.

    For "preferred", rows have question (or prompt), chosen and rejected; for the rest they are labelled texts
    (question, response and label), where a label of true means yes.

    Raises:
        RainError: the file is missing or a row is broken; the message names it.
    """
    shown: list[tuple[str, tuple[str, ...], str]]
    if question == "preferred":
        pairs = load_prompts(path, Reader("gold", _read_pair))
        shown = [(one.question, (one.extra["chosen"], one.extra["rejected"]), "first") for one in pairs]
    else:
        labelled = load_labelled(path, complete=False)
        shown = [(one.question, (one.response,), "yes" if one.good else "no") for one in labelled]
    return [
        Item(str(number), asked.strip(), tuple(map(equal_form, texts)), ((),) * len(texts), right)
        for number, (asked, texts, right) in enumerate(shown, 1)
    ]


def _read_pair(row: Row) -> Fields:
    question = text(row, "question" if "question" in row else "prompt")
    return Fields(question, {name: text(row, name) for name in ("chosen", "rejected")})
