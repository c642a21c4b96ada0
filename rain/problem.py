"""What a search is about: a prompt, what scores and embeds its texts, and when they end. Pure: no torch, no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rain.engines.base import Stop, Tokens
from rain.tree import Vector


class Scorer(Protocol):
    """Scores text, in [-1, 1]; the same text gets the same score and is computed once."""

    async def score(self, response: Tokens) -> float:
        """Return the score of a response (ids after the prompt, rollout included)."""

    def commit(self, response: Tokens) -> None:
        """Learn that every later response begins with these ids."""


class Encoder(Protocol):
    """Embeds text."""

    async def encode(self, spans: Sequence[Tokens]) -> list[Vector]:
        """Return one sentence embedding for each run of token ids."""


class Rules(Protocol):
    """What ends a response and what ends a rollout, by task and tokenizer."""

    @property
    def rollout_stop(self) -> Stop:
        """What ends a rollout."""

    def finish(self, response: Tokens) -> str | None:
        """Return "eos" or "stop" if the response has ended, else None."""

    def complete(self, response: Tokens) -> bool:
        """Tell whether a text can be scored as it is, without a rollout: it has ended, or it pauses."""

    def rollout_tokens(self, room: int) -> int:
        """Return the length limit of a rollout where ``room`` tokens are left (at least 1)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What one search is about.

    Attributes:
        prompt: token ids of the prompt, at least one.
        key: names run seed and prompt; all randomness of the search comes from it.
        scorer, encoder, rules: see the protocols.
    """

    prompt: Tokens
    key: str
    scorer: Scorer
    encoder: Encoder
    rules: Rules


def request_seed(key: str, what: str, prefix: Sequence[int], occurrence: int = 0) -> int:
    """Derive the seed of one request from (run seed and prompt id, what is asked, prefix, occurrence)."""
    text = f"{key}|{what}|{occurrence}|{','.join(map(str, prefix))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
