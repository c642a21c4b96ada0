"""The judges' contract: what is asked, and what comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rain.core.digest import digest
from rain.core.errors import RainError
from rain.core.fields import setting, validate
from rain.engines.registry import ENGINES

Decision = bool | float | str | None
"""True or False for a yes/no question, "first" | "second" | "tie" for a pair, None if the reply could not be read.

A number for "fluency" (nats per token).
"""

OTHER = {"first": "second", "second": "first"}
"""What a verdict about a pair means when the pair is turned around; others stay as they are."""


@dataclass(frozen=True)
class Query:
    """One question about one answer, or about a pair of answers.

    Attributes:
        record: the record's id.
        side: "raina", "pa", or for a pair the order shown, "raina,pa" or "pa,raina".
        criterion: "harmless", "helpful", "pairwise", "attack", "true", "info", "sentiment" or "fluency".
        question: what the model was asked (adv: the goal without the suffix).
        response: the answer.
        other: the second answer of a pair.
        right, wrong: reference answers (truth).
    """

    record: str
    side: str
    criterion: str
    question: str
    response: str
    other: str = ""
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Put question marks for lone surrogates, which no server and no tokenizer takes."""
        for name in ("question", "response", "other"):
            object.__setattr__(self, name, _valid(getattr(self, name)))
        for name in ("right", "wrong"):
            object.__setattr__(self, name, tuple(map(_valid, getattr(self, name))))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change whenever anything shown to the judge changes."""
        shown = [self.question, self.response, self.other, self.right, self.wrong]
        return digest(shown)


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


class Verdict(NamedTuple):
    """A judge's answer: the decision and the reply that it was read from (empty if there is no text)."""

    decision: Decision
    reply: str = ""


class NoReply(Exception):
    """One query got no reply; `refused` says that the server declined only this one, so that it is not broken."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True)
class JudgeConfig:
    """How judges are asked; every field is a flag of `rain judge`.

    Raises:
        RainError: a value is outside of its range; the message names the flag.
    """

    judge_base_url: str = setting("", "server of openai: judges (and of --judge-engine http): http://127.0.0.1:8000/v1")
    judge_engine: str = setting("hf", "what runs hf: judges, as --engine", choices=ENGINES)
    max_calls: int = setting(0, "spending guard: maximum requests per judge and run (count; 0: no limit)", low=0)
    judge_concurrency: int = setting(8, "requests in flight (count)", low=1)
    judge_timeout: float = setting(60.0, "how long one request may take (seconds)", low=0.001)
    judge_retries: int = setting(5, "retries on 429, 5xx, timeouts and broken connections (count)", low=0)
    judge_max_tokens: int = setting(16, "longest reply; more for models that think aloud (tokens)", low=1)
    judge_template: str = setting("", "label-word template of a local sentiment judge (default: RAIN's own)")

    def __post_init__(self) -> None:
        validate(self)


class Judge(ABC):
    """Decides queries, in one event loop.

    Attributes:
        name: its full name (KIND:WHAT), which is in every verdict.
        versions: of the wording of what is asked, by the criteria that it decides.
        model: name of the model that decides, if it is loaded here; it must not judge its own answers.
        note: what readers of its verdicts must know, "" for nothing.
        concurrency: how many calls of `decide` may run at the same time.
        max_calls: maximum number of requests; 0: no limit.
        calls, retries: requests made, and those of them that repeated an earlier one.
    """

    versions: Mapping[str, str] = {}
    concurrency = 1
    max_calls = 0
    note = ""
    model = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.retries = 0

    def version(self, criterion: str) -> str | None:
        """Return the version of what is asked about a criterion, or None if this judge cannot decide it."""
        return self.versions.get(criterion)

    @abstractmethod
    async def decide(self, query: Query) -> Verdict:
        """Decide one query; NoReply if this query alone got no reply, RainError if the judge cannot continue."""

    async def close(self) -> None:
        """Release connections and memory."""
        return None

    def count_call(self) -> None:
        """Count one request; RainError if `max_calls` of them were made."""
        if self.max_calls and self.calls >= self.max_calls:
            raise RainError(
                f"judge {self.name} reached --max-calls {self.max_calls}; its verdicts are kept, and the same command "
                "resumes from there"
            )
        self.calls += 1
