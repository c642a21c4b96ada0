"""Whole answers instead of a search: writing, drawing and scoring them within a budget."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple

from rain.core.concurrency import gather_or_cancel, run_within
from rain.core.config import Budget
from rain.core.engine import SamplingParams
from rain.core.errors import RainError
from rain.core.problem import request_seed
from rain.core.types import Tokens
from rain.generation import Answer, CommittedText, Draft, PreparedPrompt
from rain.methods.base import Generation, Parts
from rain.methods.config import MOST_DRAFTS
from rain.plain import next_piece

Spent = tuple[int, float]
"""Tokens computed, and seconds."""


class Done(Exception):
    """Nothing more can be written: the budget has ended, or the context has no room."""


class Written(NamedTuple):
    """A text that was written: its ids, and why it ended ("eos", "stop", "length" or "budget")."""

    tokens: Tokens
    finish: str


class Method(NamedTuple):
    """How drafts come about.

    Attributes:
        write: has a ``Drafting`` write drafts until it is done.
        guided: whether it asks the evaluator; then the draft with the largest value is the answer, else the last one.
    """

    write: Callable[[Drafting], Awaitable[None]]
    guided: bool = False


class Drafting(Generation):
    """An answer made of whole drafts; what a method needs to make them.

    Attributes:
        drafts: so far, in order.
        ended: whether the budget ended them.
    """

    def __init__(self, parts: Parts, prompt: PreparedPrompt, budget: Budget, method: Method) -> None:
        super().__init__(parts, prompt, budget)
        self.drafts: list[Draft] = []
        self.ended = False
        self._method = method
        self._cost: dict[str, Any] | None = None
        self._begun: Tokens = ()  # of the first draft

    @property
    def simulations(self) -> int:
        """See ``Generation``: drafts."""
        return len(self.drafts)

    async def _run(self) -> AsyncGenerator[CommittedText, None]:
        """Write; then score drafts that no evaluator has seen, which is no part of the method's cost."""
        with suppress(Done):
            await self._method.write(self)
        if not self._method.guided:
            self._cost = self.cost()
            values = await self._score([draft.tokens for draft in self.drafts])
            self.drafts = [draft._replace(value=value) for draft, value in zip(self.drafts, values, strict=True)]
        if False:  # a generator all the same, as the base class wants it
            yield

    def answer(self) -> Answer:
        """Return the best draft so far."""
        cost, drafts = self._cost or self.cost(), self.drafts
        if not drafts:
            drafts = [self._draft(Written(self._begun, "budget"), None, 0, 0.0)]
        chosen = max(drafts, key=lambda draft: draft.value or 0.0) if self._method.guided else drafts[-1]
        finish = "budget" if self.ended else chosen.finish
        tokens, lead = len(self.prompt.tokens), self.policy.lead(chosen.tokens)
        return Answer(chosen.text, finish, (), cost, chosen.tokens, tuple(self.drafts), chosen.value, tokens, lead)

    def next_count(self) -> int:
        """Return how many drafts to draw next, 0 at the end.

        All at once; where tokens or seconds are limited, as many as there are already, and no more than tokens are left
        for, so that a budget is exceeded by one draft or so.
        """
        budget, done, wanted = self.budget, len(self.drafts), self.parts.method.n or MOST_DRAFTS
        if done >= wanted or self.out_of_budget():
            self.ended = done < wanted
            return 0
        counts = [wanted - done]
        if budget.simulations:
            counts.append(budget.simulations - done)
        if budget.tokens or budget.seconds:
            counts.append(max(1, done))
        if budget.tokens and done:
            counts.append(max(1, (budget.tokens - self.computed) * done // self.computed))
        return min(counts)

    async def draw(self, count: int) -> None:
        """Draw whole answers to the prompt in one request, the greedy one first of all, and score them side by side.

        At the end of the seconds, those that are not finished are given up.
        """
        left = self.budget.seconds - self.seconds if self.budget.seconds and self.drafts else None
        await run_within(self._draw(count), left)

    async def _draw(self, count: int) -> None:
        before, prefix = self._spent(), self.prompt.tokens
        if not self.drafts and (self.budget.tokens or self.budget.seconds):
            found = [await self.write(prefix)]
        else:
            params = self._params(prefix, self.room(prefix), count, greedy=not self.drafts)
            drawn = await self._session.generate(prefix, params)
            found = [Written(one.tokens, self.policy.finish(one.tokens) or "length") for one in drawn]
        written = self._spent()
        self._add(found, await self._score([one.tokens for one in found]), before, written)

    async def write(self, prefix: Tokens, *, greedy: bool = True, longest: int = 0) -> Written:
        """Write one text, in pieces where tokens or seconds are limited; of the first one at least one piece.

        Args:
            prefix: ids that it continues.
            greedy: take the most likely tokens; otherwise draw them.
            longest: its maximum length (tokens); 0: that of an answer.

        Raises:
            Done: there are drafts already, and the budget has ended or there is no room for a text.
            RainError: there is no room for a first one.
        """
        tokens: Tokens = ()
        room = self.room(prefix)
        room = min(room, longest or room)
        while len(tokens) < room:
            if self.drafts and self.out_of_budget():
                self.ended = True
                raise Done
            if tokens and self.out_of_budget():
                return Written(tokens, "budget")
            piece = next_piece(self.budget, room - len(tokens), self.computed, 0 if tokens else len(prefix))
            params = self._params(prefix + tokens, piece, 1, greedy=greedy)
            [more] = await self._session.generate(prefix + tokens, params)
            tokens += more.tokens
            if not self.drafts:
                self._begun = tokens
            if finish := self.policy.finish(tokens):
                return Written(tokens, finish)
        return Written(tokens, "length")

    async def write_draft(self, prefix: Tokens, *, greedy: bool = True) -> None:
        """Write one draft without asking the evaluator; a later one that the budget cuts short is given up."""
        before = self._spent()
        self._add([await self.write(prefix, greedy=greedy)], [None], before, self._spent())

    def room(self, prefix: Tokens) -> int:
        """Return the maximum length of an answer that continues a prefix (tokens); errors as for ``write``."""
        start = len(self.prompt.tokens)
        room = min(self.prompt.search.limit(start) - start, self.parts.engine.context - len(prefix))
        if room < 1 and self.drafts:
            raise Done
        if room < 1:
            raise RainError(f"the prompt of {len(prefix)} tokens leaves no room for an answer in the model's context")
        return room

    def _params(self, prefix: Tokens, length: int, count: int, *, greedy: bool) -> SamplingParams:
        """Return how to write: one greedy draft as greedy answers are, others as the search draws its candidates."""
        if greedy and count == 1:
            return SamplingParams(length, greedy_first=True, stop=self.policy.stop)
        search, top_k = self.prompt.search, self.parts.method.n_top_k
        top_k, temperature = search.top_k if top_k is None else top_k, search.candidate_temperature
        seed, first = request_seed(self.key, "draft", prefix), len(self.drafts)  # drawn together or in turn, the same
        return SamplingParams(length, count, temperature, top_k, greedy, self.policy.stop, seed, first)

    async def _score(self, responses: Sequence[Tokens]) -> list[float]:
        """Return the evaluator's values; equal texts are asked about once."""
        return [round(value, 6) for value in await gather_or_cancel(*map(self._scorer.score, responses))]

    def _spent(self) -> Spent:
        """Return tokens computed and seconds so far."""
        return self.computed, self.seconds

    def _add(
        self, found: Sequence[Written], values: Sequence[float | None], before: Spent, written: Spent
    ) -> None:
        """Add drafts, each with its share of what writing and scoring them cost.

        Args:
            found: the drafts.
            values: of each, None: not known.
            before: what had been spent before they were written.
            written: likewise, before they were scored.
        """
        lengths, prompt, after = [len(one.tokens) for one in found], self.prompt.tokens, self._spent()
        first = 0 if self.drafts else len(prompt)
        for one, value, upto in zip(found, values, accumulate(lengths), strict=True):
            writing, scoring = (first + upto) / (first + sum(lengths)), upto / sum(lengths)
            tokens, seconds = (
                start + (middle - start) * writing + (end - middle) * scoring
                for start, middle, end in zip(before, written, after, strict=True)
            )
            self.drafts.append(self._draft(one, value, round(tokens), round(seconds, 3)))

    def _draft(self, written: Written, value: float | None, computed: int, seconds: float) -> Draft:
        """Return a draft; of one that the budget cut, only text that is final."""
        tokens, finish = self.policy.up_to_end(written.tokens), written.finish
        return Draft(self.policy.answer(tokens, finish), value, finish, computed, seconds, tokens)
