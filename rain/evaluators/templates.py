"""Template files for self-evaluation: what the model is asked about its own text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rain.core.errors import RainError
from rain.prompts import PromptFile
from rain.text import Message

QUESTION, RESPONSE = "{question}", "{response}"
SECTIONS = ("kind", "examples", "question", "ask", "positive", "negative")


@dataclass(frozen=True)
class Template:
    """A parsed template; the whole prompt is head + question + middle + response + ask.

    Attributes:
        name: of the file, for messages and records.
        kind: "letters": two lettered options, asked twice with the options swapped (the paper's way); "words": the
            next word is a label, asked once.
        head: everything in front of the question.
        middle: the text between question and response.
        ask: what follows the response; for letters it contains ``{first}`` and ``{second}``.
        positive, negative: letters: the option's text; words: one or more labels each.

    The texts of question and response are never searched for placeholders, so words of the template in a prompt change
    nothing.
    """

    name: str
    kind: Literal["letters", "words"]
    head: str
    middle: str
    ask: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def asks(self) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """Return (text after the response, positive labels, negative labels) for each question about a response."""
        if self.kind == "words":
            return [(self.ask, self.positive, self.negative)]
        good, bad = self.positive[0], self.negative[0]
        first = self.ask.replace("{first}", good).replace("{second}", bad)
        second = self.ask.replace("{first}", bad).replace("{second}", good)
        return [(first, ("A",), ("B",)), (second, ("B",), ("A",))]

    def conversation(self, messages: Iterable[Message]) -> str:
        """Return turns as a question: "Why?", then "Assistant: Because.", then "Human: And now?", in its own words.

        What is neither the user's nor the assistant's stands in paragraphs of its own.
        """
        opening = self.head.rpartition("\n")[2]  # such as "Human: "
        text, begun = "", False
        for message in messages:
            content = message["content"]
            if message["role"] == "assistant":
                text += f"{self.middle} {content}"
            elif message["role"] == "user":
                text += f"\n\n{opening}{content}" if begun else content
            else:
                text += f"{content}\n\n"
            begun = begun or message["role"] in ("user", "assistant")
        return text

    @classmethod
    def from_file(cls, path: str | Path) -> Template:
        """Parse a template file; docs/goals.md describes the format.

        Sections begin with a line ``=== name``; lines before the first are comments; the last newline of a section is
        not part of it. Labels of kind "words" are one per line, in double quotes where a leading space counts. The
        section ``examples`` may be left out.

        Raises:
            RainError: the file cannot be read, or a section is missing, unknown or malformed; the message names both.
        """
        path = Path(path)
        sections = _sections(path)
        kind = sections["kind"].strip()
        if kind not in ("letters", "words"):
            raise RainError(f"{path}: section kind must be letters or words, not {kind!r}")
        before, found, rest = sections["question"].partition(QUESTION)
        middle, ended, after = rest.partition(RESPONSE)
        if not found or not ended or after or QUESTION in middle or RESPONSE in before:
            raise RainError(f"{path}: section question must contain {QUESTION} once, and then end with {RESPONSE}")
        if kind == "letters" and not ("{first}" in sections["ask"] and "{second}" in sections["ask"]):
            raise RainError(f"{path}: section ask must contain {{first}} and {{second}}")
        return cls(
            name=path.name,
            kind="letters" if kind == "letters" else "words",
            head=sections["examples"] + before,
            middle=middle,
            ask=sections["ask"],
            positive=_labels(path, "positive", kind, sections["positive"]),
            negative=_labels(path, "negative", kind, sections["negative"]),
        )


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, without a byte order mark; a RainError names a file that cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RainError(f"cannot read {path}: {error}") from error


def load_prompt(path: Path) -> PromptFile:
    """Read a prompt file, which contains ``{question}`` once; one trailing newline is dropped."""
    before, found, after = read_text(path).removesuffix("\n").partition(QUESTION)
    if not found or QUESTION in after:
        raise RainError(f"{path}: a prompt file must contain {QUESTION} exactly once")
    return PromptFile(before, after)


def _sections(path: Path) -> dict[str, str]:
    """Split a file into its sections."""
    sections: dict[str, list[str]] = {}
    name = ""
    for number, line in enumerate(read_text(path).splitlines(keepends=True), 1):
        if line.startswith("=== "):
            name = line[4:].strip()
            if name not in SECTIONS or name in sections:
                raise RainError(f"{path}, line {number}: unknown or repeated section {name!r}; known: {SECTIONS}")
            sections[name] = []
        elif name:
            sections[name].append(line)
        elif line.strip() and not line.startswith("#"):
            raise RainError(f"{path}, line {number}: text before the first section; comments begin with #")
    for name in SECTIONS:
        if name not in sections and name != "examples":
            raise RainError(f"{path}: section {name!r} is missing")
    return {name: "".join(sections.get(name, ())).removesuffix("\n") for name in SECTIONS}


def _labels(path: Path, name: str, kind: str, body: str) -> tuple[str, ...]:
    """Read the labels of a section."""
    lines = [line[1:-1] if len(line) > 1 and line[0] == line[-1] == '"' else line for line in body.split("\n") if line]
    if not lines or (kind == "letters" and len(lines) != 1):
        raise RainError(f"{path}: section {name} needs {'one option' if kind == 'letters' else 'a label'}")
    return tuple(lines)
