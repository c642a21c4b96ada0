"""What a row means, for each benchmark: the formats that researchers have their prompts in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rain.data.datasets import Fields, HubSource, Prompt, Reader, Row
from rain.data.rows import BadRow, kind, text
from rain.terminal import counted

WORDS = 8
"""Of a review, which is continued after them."""

_ROLE = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def first_human_turn(transcript: str) -> str:
    r"""Return what the human says first in a conversation such as "\n\nHuman: ...\n\nAssistant: ...".

    A role marker is "Human:" or "Assistant:" at the start of a paragraph, that is at the start of the text or after an
    empty line. The same words anywhere else are part of what is said. The turn ends at the next marker of either role.

    Raises:
        BadRow: the conversation does not begin with a turn of the human, or that turn is empty.
    """
    content = transcript.replace("\r\n", "\n").lstrip()
    begin = _ROLE.match(content)
    if begin is None or begin[1] != "Human":
        raise BadRow("field 'transcript' must begin with 'Human:'")
    end = _ROLE.search(content, begin.end())
    turn = content[begin.end() : end.start() if end else None].strip()
    if not turn:
        raise BadRow("the first turn in the field 'transcript' is empty")
    return turn


def read_hh(row: Row) -> Fields:
    """Take `question`, or the first human turn of `transcript`."""
    if row.get("question") is None and "transcript" in row:
        return Fields(first_human_turn(text(row, "transcript")), {})
    return Fields(text(row, "question"), {})


def read_adv(row: Row) -> Fields | None:
    """Take `goal` with the suffix `controls`, or a whole attack `prompt` (JailbreakBench); None if that is null."""
    goal, controls, target = text(row, "goal"), text(row, "controls", ""), text(row, "target", "")
    question = f"{goal} {controls}" if controls else goal
    if "prompt" in row:
        if row["prompt"] is None:
            return None
        question = text(row, "prompt")
        controls = question[len(goal) :].removeprefix(" ") if question.startswith(goal) else ""
    extra = {"goal": goal, "controls": controls}
    extra |= {"target": target} if target else {}
    extra |= {"behavior": row["behavior"]} if isinstance(row.get("behavior"), str) else {}
    return Fields(question, extra)


def without_attack(prompts: Sequence[Prompt]) -> str:
    """Say how many prompts are bare goals, which test a model's refusals but no attack."""
    bare = sum(prompt.question == prompt.extra["goal"] for prompt in prompts)
    return f"{bare} of {counted(len(prompts), 'prompt')} without controls: no attack on these" if bare else ""


def adv_rows(document: object) -> list[object]:
    """Make rows from a list of goals, a GCG log (lists side by side) or a JailbreakBench artifact.

    Raises:
        BadRow: the document is none of these, or its lists differ in length.
    """
    if isinstance(document, list):
        return [row for entry in document for row in _side_by_side(entry)]
    if isinstance(document, dict):
        if isinstance(document.get("jailbreaks"), list):
            return list(document["jailbreaks"])
        params = document.get("params")
        return _side_by_side({**params, **document} if isinstance(params, dict) else document)
    raise BadRow(f"the file must contain a list of goals or an attack's log, not {kind(document)}")


def _side_by_side(entry: object) -> list[object]:
    """Turn one object with lists of goals, controls and targets into one row each; other entries stay as they are."""
    if not isinstance(entry, dict):
        return [entry]
    columns: dict[str, Any] = {name: entry.get(name, entry.get(f"{name}s")) for name in ("goal", "target")}
    columns["controls"] = entry.get("controls", entry.get("control"))
    goals = columns["goal"]
    if not isinstance(goals, list):
        return [entry]
    for name, value in columns.items():
        if not value or not isinstance(value, list):
            columns[name] = [value or None] * len(goals)
        elif len(value) != len(goals):
            raise BadRow(f"{len(goals)} goals, but {len(value)} {name}; give one each, or one text for all")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def read_truth(row: Row) -> Fields:
    """Take `question` and, if present, source and reference answers (lists, or text split at semicolons)."""
    extra: dict[str, Any] = {
        name: text(row, name) for name in ("source", "best_answer", "category", "type") if row.get(name) is not None
    }
    for name in ("correct_answers", "incorrect_answers"):
        if row.get(name) is not None:
            extra[name] = _answers(row, name)
    return Fields(text(row, "question"), extra)


def _answers(row: Row, name: str) -> list[str]:
    value = row[name]
    if isinstance(value, list):
        if not all(isinstance(answer, str) for answer in value):
            raise BadRow(f"field {name!r} must be a list of texts only")
        return list(value)
    return [answer.strip() for answer in text(row, name).split(";") if answer.strip()]


def read_imdb(row: Row) -> Fields:
    """Take `question`, the opening of a review, or the first WORDS of the review in `text` (line breaks as spaces)."""
    if row.get("question") is not None or "text" not in row:
        return Fields(text(row, "question"), {})
    opening = text(row, "text").replace("<br />", " ").split()[:WORDS]
    if not opening:
        raise BadRow("field 'text' has no words")
    return Fields(" ".join(opening), {})


_RED_TEAM = HubSource("Anthropic/hh-rlhf", "train", data_dir="red-team-attempts", shuffle=True, below_tokens=512)
_TRUTHFUL = HubSource("truthfulqa/truthful_qa", "validation", name="generation")
_REVIEWS = HubSource("stanfordnlp/imdb", "test", shuffle=True)

HH = Reader("hh", read_hh, {"hh": _RED_TEAM, "Anthropic/hh-rlhf": _RED_TEAM})
ADV = Reader("adv", read_adv, rows=adv_rows, notice=without_attack)
TRUTH = Reader("truth", read_truth, {"truthful_qa": _TRUTHFUL, "truthfulqa/truthful_qa": _TRUTHFUL})
IMDB = Reader("imdb", read_imdb, {"imdb": _REVIEWS, "stanfordnlp/imdb": _REVIEWS})

HUB_NAMES = "; ".join(f"{', '.join(reader.hub)} ({reader.task})" for reader in (HH, ADV, TRUTH, IMDB) if reader.hub)
"""The data sets of the hub that ``--dataset`` can name, with the task that each is for."""
