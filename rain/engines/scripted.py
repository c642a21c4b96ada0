"""A session that answers from a recording; it needs no torch and knows nothing that was not recorded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rain.core.engine import Continuation, SamplingParams, Session, Usage
from rain.core.errors import RainError
from rain.core.types import Tokens


class NotRecorded(RainError):
    """Something was requested that the recorded search never requested."""


class ScriptedSession(Session):
    """Replays the answers of a recorded search.

    Args:
        calls: ``expand``, ``add`` and ``evaluate`` lists as in the golden traces (see ``rain.replay``); a rollout is
            answered from ``evaluate``.

    Requesting what was not recorded raises ``NotRecorded``, which is the point.

    Attributes:
        expanded: the prefixes of which more was requested than the greedy candidate.
    """

    def __init__(self, calls: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.usage = Usage()
        self._expand = {tuple(call["prefix"]): call for call in calls["expand"]}
        self._add = {(tuple(call["prefix"]), call["occurrence"]): call for call in calls["add"]}
        self._rollouts = {tuple(call["prefix"]): tuple(call["rollout"]) for call in calls["evaluate"]}
        self._additions: Counter[Tokens] = Counter()
        self.expanded: set[Tokens] = set()

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        """Return the recorded continuations; the first token has the log-probability of its whole set."""
        self.usage.requests += 1
        key = tuple(prefix)
        if params.purpose == "rollout":
            tokens = self._lookup(self._rollouts, key, "rollout")
            return [Continuation(tokens, (0.0,) * len(tokens), "stop")]
        if params.purpose == "add":
            self._additions[key] += 1
            call = self._lookup(self._add, (key, self._additions[key]), "addition")
        else:
            call = self._lookup(self._expand, key, "expansion")
            if params.n > 1:
                self.expanded.add(key)
        candidates = call["candidates"]
        counts = (call["n"], 1) if params.greedy_first else (call["n"],)  # the greedy one may be asked for alone
        if params.n not in counts or any(len(tokens) != params.max_tokens for tokens, _ in candidates):
            wanted = f"{params.n} sets of {params.max_tokens} tokens"
            raise NotRecorded(f"the recording has n={call['n']} at prefix {list(key)}; requested were {wanted}")
        priors = [call["greedy_raw_prob"], *(prior for _, prior in candidates[1:])]
        return [
            Continuation(tuple(tokens), (math.log(prior), *[0.0] * (len(tokens) - 1)), "length")
            for (tokens, _), prior in zip(candidates, priors, strict=True)
        ][: params.n]

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """Return the most likely recorded next tokens."""
        self.usage.requests += 1
        self.expanded.add(tuple(prefix))
        probabilities = self._lookup(self._expand, tuple(prefix), "next-token distribution")["next_token_probs"]
        ranked = sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token))
        return {token: math.log(probabilities[token]) for token in {*ranked[:top], *ids}}

    @staticmethod
    def _lookup(table: Mapping[Any, Any], key: Any, what: str) -> Any:
        if key not in table:
            raise NotRecorded(f"the recording has no {what} for prefix {key}")
        return table[key]
