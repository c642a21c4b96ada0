"""``rain``: the search of the paper."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

from rain.core.concurrency import run_within
from rain.core.config import Budget
from rain.core.problem import SearchInputs
from rain.core.search import Search
from rain.core.types import Tokens
from rain.embedding import SpanEncoder
from rain.generation import Answer, CommittedText, OnCommit, PreparedPrompt
from rain.methods.base import Generation, Parts
from rain.trace.record import Recorder

MOST_AHEAD = 32
"""Simulations that one search computes ahead, at most; later ones are guessed right too seldom."""


class TreeSearch(Generation):
    """An answer that is committed token set by token set."""

    def __init__(self, parts: Parts, prompt: PreparedPrompt, budget: Budget) -> None:
        super().__init__(parts, prompt, budget)
        self._commits: list[CommittedText] = []
        encoder = SpanEncoder(parts.encoder, parts.policy.text)
        inputs = SearchInputs(prompt.tokens, self.key, self._scorer, encoder, self.policy)
        self._search = Search(
            inputs,
            self._session,
            prompt.search,
            eager=parts.eager,
            out_of_budget=self.out_of_budget,
            prefetch=self._ahead,
        )

    @property
    def simulations(self) -> int:
        """See ``Generation``."""
        return self._search.simulations

    @property
    def tokens(self) -> Tokens:
        """The committed ids, up to the response's limit."""
        start = len(self.prompt.tokens)
        return self._search.prefix[start : self.prompt.search.limit(start)]

    async def complete(self, on_commit: OnCommit = lambda commit: None) -> Answer:
        """Run to the end; the seconds of the budget end it even in the middle of a simulation."""
        await run_within(super().complete(on_commit), self.budget.seconds or None)
        return self.answer()

    def _ahead(self) -> int:
        """Return how many simulations after the present one to compute ahead: an equal share, since passes fill up.

        A budget of simulations limits it, too, and where tokens are counted none is spent on guesses.
        """
        if self.budget.tokens:
            return 0
        share = min(MOST_AHEAD, math.ceil(self.parts.prefetch / len(self.parts.running)))
        left = self.budget.simulations - self.simulations - 1 if self.budget.simulations else share
        return min(share, left)

    async def _run(self) -> AsyncGenerator[CommittedText, None]:
        recorder = self._search.observer = self._recorder() if self.prompt.trace else None
        before = 0  # characters
        try:
            async for commit in self._search.commits():
                text, value = self.policy.text(self.tokens).rstrip("\ufffd"), round(commit.child.value, 6)
                self._commits.append(CommittedText(text[before:], commit.child.visits, value, commit.simulations))
                before = max(before, len(text))
                yield self._commits[-1]
        finally:
            await self._search.prefetch.close()
            if recorder:
                if self._search.finish or self.out_of_budget():  # by its seconds, even in the middle of a simulation
                    answer = self.answer()
                    recorder.ended(answer.finish, answer.text, answer.cost)
                recorder.close()

    def _recorder(self) -> Recorder:
        prompt, search = self.prompt, self._search
        assert prompt.trace
        about = {"id": prompt.id, "question": prompt.question, "seed": prompt.seed}
        return Recorder(prompt.trace, about, prompt.tokens, prompt.search, search.root, self._scorer, self.policy)

    def answer(self) -> Answer:
        """Return the answer, or what of it is committed."""
        finish, tokens = self._search.finish or "budget", self.policy.up_to_end(self.tokens)
        text, lead, start = self.policy.answer(tokens, finish), self.policy.lead(tokens), len(self.prompt.tokens)
        return Answer(text, finish, tuple(self._commits), self.cost(), tokens, prompt_tokens=start, lead=lead)
