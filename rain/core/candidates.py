"""What a search draws: the token sets that a node may be continued with (expansion, node addition), and rollouts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rain.core.config import RainConfig
from rain.core.engine import Purpose, SamplingParams, Session
from rain.core.problem import SearchInputs, request_seed
from rain.core.tree import clamp_greedy
from rain.core.types import Tokens

Candidate = tuple[Tokens, float]
"""A token set and its prior, which is not normalised."""


class Candidates:
    """Proposes token sets, and continues them; all randomness comes from the inputs' key."""

    def __init__(self, session: Session, config: RainConfig, inputs: SearchInputs) -> None:
        self.session, self.config, self.inputs = session, config, inputs

    async def most_likely(self, prefix: Tokens, count: int) -> list[Candidate]:
        """Return the most likely next tokens with their probabilities, by token id."""
        logprobs = await self.session.next_logprobs(prefix, top=count)
        return [((token,), math.exp(logprob)) for token, logprob in sorted(logprobs.items())]

    async def greedy(self, prefix: Tokens, length: int) -> list[Candidate]:
        """Return the first one of ``draw``; its prior is not a number, since clamping needs the others'."""
        return [(tokens, math.nan) for tokens, _ in await self._draw(prefix, length, 1, "expand")]

    async def draw(self, prefix: Tokens, length: int) -> list[Candidate]:
        """Return distinct token sets, the greedy one first, with clamped products of token probabilities.

        ``candidates - 1`` are drawn at once; where a larger ``max_draws`` allows, duplicates are drawn anew.
        """
        config, drawn = self.config, self.config.candidates - 1
        found = await self._draw(prefix, length, config.candidates, "expand")
        while (missing := min(config.candidates - len(dict(found)), config.max_draws - drawn)) > 0:
            found += await self._draw(prefix, length, missing, "expand", drawn, greedy_first=False)
            drawn += missing
        return _clamped(found)

    async def draw_more(self, prefix: Tokens, length: int, occurrence: int) -> list[Candidate]:
        """Return the greedy token set and a fresh sampled one, or the greedy one alone if they are equal."""
        return _clamped(await self._draw(prefix, length, 2, "add", occurrence))

    async def _draw(
        self, prefix: Tokens, length: int, n: int, purpose: Purpose, occurrence: int = 0, *, greedy_first: bool = True
    ) -> list[Candidate]:
        """Return n continuations, each with the product of its tokens' probabilities."""
        params = SamplingParams(
            max_tokens=length,
            n=n,
            temperature=self.config.candidate_temperature,
            top_k=self.config.top_k,
            greedy_first=greedy_first,
            seed=request_seed(self.inputs.key, purpose, prefix, occurrence),
            purpose=purpose,
        )
        drawn = await self.session.generate(prefix, params)
        return [(one.tokens, math.exp(sum(one.logprobs))) for one in drawn]

    async def rollout(self, prefix: Tokens, limit: int) -> Tokens:
        """Continue a leaf by plain sampling to the next pause or ``limit`` (tokens, with the prompt), for scoring."""
        inputs, remaining = self.inputs, limit - len(prefix)
        if remaining <= 0 or inputs.policy.complete(prefix[len(inputs.prompt) :]):
            return ()
        params = SamplingParams(
            max_tokens=inputs.policy.rollout_tokens(remaining),
            stop=inputs.policy.rollout_stop,
            seed=request_seed(inputs.key, "rollout", prefix),
            logprobs=False,
            purpose="rollout",
        )
        [continuation] = await self.session.generate(prefix, params)
        return continuation.tokens


def _clamped(found: Sequence[Candidate]) -> list[Candidate]:
    """Return distinct candidates (of equal ones the first), the greedy one first, with its prior clamped."""
    distinct: dict[Tokens, float] = {}
    for tokens, prior in found:
        distinct.setdefault(tokens, prior)
    return list(zip(distinct, clamp_greedy(list(distinct.values())), strict=True))
