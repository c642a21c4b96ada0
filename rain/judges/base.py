"""The judges' contract: what is asked, what comes back, and how a judge is opened by its name."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rain.core.errors import RainError
from rain.core.fields import setting

JUDGES = "openai:MODEL, hf:MODEL, keywords:LIST, similarity:ENCODER or ratings:FILE"

Decision = bool | str | None
"""True or False for a yes/no question, "first" | "second" | "tie" for a pair, None where no verdict could be read."""


@dataclass(frozen=True)
class Query:
    """One question about one answer, or about a pair of answers.

    record: the record's id. answer: "raina", "pa", or for a pair the order shown, "raina,pa" or "pa,raina".
    ask: "harmless", "helpful", "pairwise", "attack", "true", "info" or "sentiment". question: what the model was asked
    (adv: the goal without the suffix). response: the answer; other: the second answer of a pair. right and wrong:
    reference answers (truth).
    """

    record: str
    answer: str
    ask: str
    question: str
    response: str
    other: str = ""
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change whenever anything shown to the judge changes."""
        shown = [self.question, self.response, self.other, self.right, self.wrong]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


class Verdict(NamedTuple):
    """A judge's answer: the decision and the reply that it was read from (empty where there is no text)."""

    decision: Decision
    reply: str = ""


class Unanswered(Exception):
    """One query got no reply; `refused` says that the server declined just this one rather than being out of order."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True)
class JudgeSettings:
    """How judges are asked; every field is a flag of `rain judge`.

    Raises RainError when a number is out of its range; the message names the field.
    """

    judge_base_url: str = setting("", "OpenAI-compatible server of openai: judges, such as http://127.0.0.1:8000/v1")
    max_calls: int = setting(0, "spending guard: requests per judge and run, at most (count; 0: no limit)")
    judge_concurrency: int = setting(8, "requests in flight (count)")
    judge_timeout: float = setting(60.0, "how long one request may take (seconds)")
    judge_retries: int = setting(5, "tries after the first on 429, 5xx, timeouts and cut connections (count)")
    judge_backoff: float = setting(1.0, "pause before the first retry, doubled each time, at most 60 (seconds)")
    judge_max_tokens: int = setting(16, "longest reply; more for models that think aloud (tokens)")
    judge_template: str = setting("", "label-word template of a local sentiment judge (default: that of imdb)")

    def __post_init__(self) -> None:
        least = {"judge_concurrency": 1, "max_calls": 0, "judge_retries": 0, "judge_max_tokens": 1, "judge_backoff": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise RainError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.judge_timeout <= 0:
            raise RainError(f"judge_timeout must be above 0 seconds, got {self.judge_timeout}")


class Judge(ABC):
    """Decides queries. `name` is its full name (KIND:WHAT) and stands in every verdict.

    calls and retries count the requests made and those made again. A judge is used from one event loop; `decide` may be
    called again before an earlier call has returned, at most `concurrency` times at once.
    """

    concurrency = 1

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.retries = 0

    @abstractmethod
    def version(self, ask: str) -> str | None:
        """Return the version of what is asked for `ask`, or None where this judge cannot decide it."""

    @abstractmethod
    async def decide(self, query: Query) -> Verdict:
        """Decide one query; raises Unanswered for this query alone and RainError when the judge cannot go on."""

    async def close(self) -> None:
        """Release connections and memory."""
        return None


def open_judge(name: str, settings: JudgeSettings) -> Judge:
    """Return the judge called `name`, one of JUDGES; RainError for any other name."""
    kind, _, what = name.partition(":")
    if not what or kind not in ("openai", "hf", "keywords", "similarity", "ratings"):
        raise RainError(f"unknown judge {name!r}: write {JUDGES}")
    if kind == "openai":
        from rain.judges.openai_judge import OpenAIJudge

        return OpenAIJudge(what, settings)
    if kind == "hf":
        from rain.judges.hf_judge import HFJudge

        return HFJudge(what, settings)
    if kind == "similarity":
        from rain.judges.similarity import SimilarityJudge

        return SimilarityJudge(what)
    if kind == "ratings":
        from rain.judges.ratings import RatingsJudge

        return RatingsJudge(Path(what))
    from rain.judges.keywords import KeywordJudge

    return KeywordJudge(what)


def file_name(judge: str) -> str:
    """Return the name of a judge's score file: scores_<judge>.jsonl with only letters, digits, '.', '-' and '_'."""
    return f"scores_{re.sub(r'[^A-Za-z0-9.-]+', '_', judge)}.jsonl"


def repository_file(*parts: str) -> Path:
    """Return the path of a file beside the package, such as figs/paper_results.json; it may be missing."""
    return Path(__file__).resolve().parents[2].joinpath(*parts)
