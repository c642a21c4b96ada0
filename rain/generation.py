"""What goes into an answer, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rain.core.config import RainConfig
from rain.core.types import Tokens
from rain.text import Message
from rain.trace.record import Append


class CommittedText(NamedTuple):
    """One committed token set, as it is in the records.

    Attributes:
        text: what it adds to that of the answer; a character of several token sets belongs to the last of them.
        visits: whole visits of its node.
        value: its value in [-1, 1], to 6 digits.
        simulations: run for this commit.
    """

    text: str
    visits: int
    value: float
    simulations: int


class Piece(NamedTuple):
    """What an answer gains while it is made.

    Attributes:
        text: that has become final; empty where all of a commit's text is held back.
        commit: that brought it; None: there is none, or the text was held back until the end.
        tokens: of the answer that are final so far (count).
        lead: whitespace in front of the answer's first text, which the answer is stripped of.
    """

    text: str
    commit: CommittedText | None
    tokens: int
    lead: str = ""


class Draft(NamedTuple):
    """One whole answer of a method that writes several, or of one that does not search.

    Attributes:
        text: stripped of surrounding whitespace.
        value: what the evaluator says of it, in [-1, 1], to 6 digits; None: it was not asked.
        finish: why it ended.
        tokens_computed: by the method up to and with this draft, evaluations included (of drafts that were drawn
            together each has a share by its length).
        seconds: likewise.
        tokens: its ids; not in the records.
    """

    text: str
    value: float | None
    finish: str
    tokens_computed: int
    seconds: float
    tokens: Tokens = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the draft as it is in the records."""
        return {name: value for name, value in self._asdict().items() if name != "tokens"}


OnCommit = Callable[[CommittedText], None]


@dataclass(frozen=True)
class Answer:
    """An answer; ``str(answer)`` is its text.

    Attributes:
        text: the answer, stripped of surrounding whitespace.
        finish: why it ended: "eos", "stop", "length", "budget" or "empty".
        commits: the committed token sets in order; empty for a greedy answer.
        cost: counters by name: those of ``Usage``, ``seconds``, and but for greedy answers ``simulations`` (or drafts),
            ``evaluations`` and ``evaluation`` (the part of the usage that evaluation caused).
        tokens: ids of the response, special ones and what belongs to a stop string included.
        drafts: what the methods without a search wrote, in order; one of them is the answer.
        value: of the draft that is the answer.
        prompt_tokens: length of the prompt (tokens).
        lead: the whitespace that it was stripped of in front.
    """

    text: str
    finish: str
    commits: tuple[CommittedText, ...] = ()
    cost: dict[str, Any] = field(default_factory=dict)
    tokens: Tokens = ()
    drafts: tuple[Draft, ...] = ()
    value: float | None = None
    prompt_tokens: int = 0
    lead: str = ""

    def __str__(self) -> str:
        return self.text

    def piece(self, shown: int) -> Piece:
        """Return what follows the first ``shown`` characters of the text."""
        return Piece(self.text[shown:], None, len(self.tokens), "" if shown else self.lead)


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt that fits the model.

    Attributes:
        id: together with the run's seed, all randomness comes from it.
        question: what the evaluator is told that was asked.
        source: the prompt as it was given.
        tokens: the prompt's ids.
        search: the constants, with limits that fit the context.
        seed: of the run.
        stop: strings before which the response ends, besides those of the task.
        trace: takes what is recorded of the search; None: nothing is.
        fields: of the prompt's row in its data set, such as reference answers; for evaluators.
    """

    id: str
    question: str
    source: str | Sequence[Message] | Tokens
    tokens: Tokens
    search: RainConfig
    seed: int
    stop: tuple[str, ...] = ()
    trace: Append | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
