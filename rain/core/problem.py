"""What one search works on: a prompt, what scores and embeds its texts, and when they end. Pure: no torch, no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rain.core.stop import Stop
from rain.core.types import Tokens, Vector


class Scorer(Protocol):
    """Scores text, in [-1, 1]; the same ids get the same score, which is computed once."""

    async def score(self, response: Tokens) -> float:
        """Return the score of a response (ids after the prompt, rollout included)."""

    def commit(self, response: Tokens) -> None:
        """Learn that every later response begins with these ids."""


class Encoder(Protocol):
    """Embeds text."""

    async def encode(self, spans: Sequence[Tokens]) -> list[Vector]:
        """Return a sentence embedding for each run of token ids: (size,), of length 1."""


class StopPolicy(Protocol):
    """What ends a response and what ends a rollout, by task and tokenizer."""

    @property
    def rollout_stop(self) -> Stop:
        """What ends a rollout."""

    def finish(self, response: Tokens) -> str | None:
        """Return "eos" or "stop" if the response has ended, else None."""

    def complete(self, response: Tokens) -> bool:
        """Tell whether a text can be scored as it is, without a rollout: it has ended, or it pauses."""

    def rollout_tokens(self, remaining: int) -> int:
        """Return the maximum length of a rollout where ``remaining`` tokens are left (at least 1)."""


@dataclass(frozen=True, slots=True)
class SearchInputs:
    """What one search works on.

    Attributes:
        prompt: token ids of the prompt, at least one.
        key: names run seed and prompt; all randomness of the search comes from it.
        scorer, encoder, policy: see the protocols.
    """

    prompt: Tokens
    key: str
    scorer: Scorer
    encoder: Encoder
    policy: StopPolicy


def request_seed(key: str, purpose: str, prefix: Sequence[int], occurrence: int = 0) -> int:
    """Derive the seed of one request from (run seed and prompt id, purpose, prefix, occurrence): 63 bits."""
    text = f"{key}|{purpose}|{occurrence}|{','.join(map(str, prefix))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1  # drop the sign bit
