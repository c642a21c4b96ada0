"""What a search draws: the token sets that a node may be continued with (expansion, node addition), and rollouts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from rain.core.config import RainConfig
from rain.core.engine import SamplingParams, Session
from rain.core.problem import SearchInputs, request_seed
from rain.core.tree import clamp_greedy
from rain.core.types import Tokens

Candidate = tuple[Tokens, float]
"""A token set and its prior, which is not normalised."""


class Candidates:
    """Proposes token sets.

    Args:
        session: of the language model.
        config: the constants.
        key: names run seed and prompt; all randomness comes from it.
    """

    def __init__(self, session: Session, config: RainConfig, key: str) -> None:
        self.session, self.config, self.key = session, config, key

    async def most_likely(self, prefix: Tokens, count: int) -> list[Candidate]:
        """Return the most likely next tokens with their probabilities, by token id."""
        logprobs = await self.session.next_logprobs(prefix, top=count)
        return [((token,), math.exp(logprob)) for token, logprob in sorted(logprobs.items())]

    async def greedy(self, prefix: Tokens, length: int) -> list[Candidate]:
        """Return the first one of ``draw``; its prior is not a number, since clamping needs the others'."""
        found: dict[Tokens, float] = {}
        await self._draw(found, prefix, length, 1, "expand", 0, greedy_first=True)
        return [(tokens, math.nan) for tokens in found]

    async def draw(self, prefix: Tokens, length: int) -> list[Candidate]:
        """Return distinct token sets, the greedy one first, with clamped products of token probabilities.

        ``candidates - 1`` are drawn at once; where a larger ``max_draws`` allows, duplicates are drawn anew.
        """
        config, found = self.config, dict[Tokens, float]()
        drawn = config.candidates - 1
        await self._draw(found, prefix, length, config.candidates, "expand", 0, greedy_first=True)
        while len(found) < config.candidates and drawn < config.max_draws:
            missing = min(config.candidates - len(found), config.max_draws - drawn)
            await self._draw(found, prefix, length, missing, "expand", drawn, greedy_first=False)
            drawn += missing
        return _clamped(found)

    async def draw_more(self, prefix: Tokens, length: int, occurrence: int) -> list[Candidate]:
        """Return the greedy token set and a fresh sampled one, or the greedy one alone if they are equal."""
        found: dict[Tokens, float] = {}
        await self._draw(found, prefix, length, 2, "add", occurrence, greedy_first=True)
        return _clamped(found)

    async def _draw(
        self,
        found: dict[Tokens, float],
        prefix: Tokens,
        length: int,
        n: int,
        purpose: Literal["expand", "add"],
        occurrence: int,
        *,
        greedy_first: bool,
    ) -> None:
        """Add n continuations to ``found``, each with the product of its tokens' probabilities; equal ones once."""
        params = SamplingParams(
            max_tokens=length,
            n=n,
            temperature=self.config.candidate_temperature,
            top_k=self.config.top_k,
            greedy_first=greedy_first,
            seed=request_seed(self.key, purpose, prefix, occurrence),
            purpose=purpose,
        )
        for continuation in await self.session.generate(prefix, params):
            found.setdefault(continuation.tokens, math.exp(sum(continuation.logprobs)))


def _clamped(found: Mapping[Tokens, float]) -> list[Candidate]:
    """Return candidates, the greedy one first, with its prior clamped."""
    return list(zip(found, clamp_greedy(list(found.values())), strict=True))


async def draw_rollout(session: Session, inputs: SearchInputs, prefix: Tokens, limit: int) -> Tokens:
    """Continue a leaf by plain sampling to the next pause or ``limit`` (tokens, with the prompt); for scoring only."""
    policy, remaining = inputs.policy, limit - len(prefix)
    if remaining <= 0 or policy.complete(prefix[len(inputs.prompt) :]):
        return ()
    params = SamplingParams(
        max_tokens=policy.rollout_tokens(remaining),
        stop=policy.rollout_stop,
        seed=request_seed(inputs.key, "rollout", prefix),
        logprobs=False,
        purpose="rollout",
    )
    [continuation] = await session.generate(prefix, params)
    return continuation.tokens
