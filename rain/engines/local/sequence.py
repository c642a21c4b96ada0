"""What the scheduler advances: a continuation that is being generated, or a question about the next token."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from array import array
from collections.abc import Collection, Iterable
from typing import Literal

from rain.core.engine import Continuation, SamplingParams, Usage
from rain.core.stop import Decode
from rain.engines.local.kv_cache import SLOTS, KvTree
from rain.engines.local.sampling import TOP, Draw, NextTokenDistribution

STREAMS = 1 << 20
"""Random streams of one seed: continuation i of a request draws from stream ``seed * STREAMS + i``."""


class Sequence(ABC):
    """A cursor into a tree: tokens whose next-token distribution is needed, and how far they are cached.

    ``slots`` are the places of the first tokens, valid for one version of the tree: ``sync`` matches all tokens anew
    after slots were renumbered (commit, eviction, a step that failed), and otherwise only moves forward over what other
    sequences have computed in the meantime. ``extend_tree`` appends the missing slots, the scheduler runs the pass and
    calls ``advance`` with the distribution after the last of them.

    Attributes:
        tree: where the tokens are cached.
        tokens: ids from the first one on, those of the tree's base included.
        slots: of the tokens that are cached already.
        usage: of the session that pays.
        top: how many of the most likely ids are needed.
        lookups: further ids whose log-probabilities are needed.
        remaining: tokens that may still be generated.
        done: whether the sequence needs nothing more.
        error: why it cannot continue.
    """

    done = False
    error: Exception | None = None
    remaining = 0

    def __init__(self, tree: KvTree, tokens: Iterable[int], usage: Usage) -> None:
        self.tree = tree
        self.tokens = list(tokens)
        self.usage = usage
        self.slots = array(SLOTS)
        self.version = -1
        self.top = TOP
        self.lookups: Collection[int] = ()

    def sync(self) -> None:
        """Follow the tree: take over slots that other sequences computed, and forget renumbered ones."""
        if self.version != self.tree.version:
            self.slots, self.version = self.tree.match_prefix(self.tokens), self.tree.version
        else:
            self.tree.follow(self.slots, self.tokens)

    def extend_tree(self, room: int) -> tuple[int, int]:
        """Append up to ``room`` missing slots; return how many, and how many of them were never computed before."""
        missing = self.tokens[len(self.slots) :][:room]
        return len(missing), self.tree.extend(self.slots, missing)

    def whole_draw(self, row: int) -> Draw | None:
        """Return what to draw from the whole vocabulary of a row, None if its most likely ids are enough."""
        return None

    @abstractmethod
    def can_reuse(self, found: NextTokenDistribution) -> bool:
        """Tell whether a distribution that was brought back before is enough."""

    def take(self, found: NextTokenDistribution, drawn: tuple[int, float] | None) -> None:
        """Advance; an exception, such as one of the tokenizer, ends this sequence and no other."""
        try:
            self.advance(found, drawn)
        except Exception as error:
            self.error, self.done = error, True

    def advance(self, found: NextTokenDistribution, drawn: tuple[int, float] | None) -> None:
        """Continue with a distribution (and the token drawn from the whole vocabulary); set ``done`` at the end.

        Raises:
            RainError: the distribution is not made of numbers.
        """
        found.check()
        self._advance(found, drawn)

    @abstractmethod
    def _advance(self, found: NextTokenDistribution, drawn: tuple[int, float] | None) -> None:
        """See ``advance``."""


class LogprobsSequence(Sequence):
    """Needs log-probabilities of the next token: the ``count`` most likely, and those of ``ids``."""

    def __init__(
        self, tree: KvTree, tokens: Iterable[int], usage: Usage, count: int, ids: Collection[int] = ()
    ) -> None:
        super().__init__(tree, tokens, usage)
        self.count, self.top, self.lookups = count, max(count, TOP), ids
        self.logprobs: dict[int, float] = {}

    def can_reuse(self, found: NextTokenDistribution) -> bool:
        """Check that every id was brought back."""
        return len(found.top_ids) >= self.count and all(found.logprob(token) is not None for token in self.lookups)

    def _advance(self, found: NextTokenDistribution, drawn: tuple[int, float] | None) -> None:
        """Read the log-probabilities."""
        self.logprobs = found.top(self.count)
        for token in self.lookups:
            logprob = found.logprob(token)
            assert logprob is not None, "the pass looked this id up"
            self.logprobs[token] = logprob
        self.done = True


class GenerationSequence(Sequence):
    """Generates continuation number ``index`` of a request, token by token."""

    def __init__(
        self, tree: KvTree, tokens: Iterable[int], usage: Usage, params: SamplingParams, index: int, decode: Decode
    ) -> None:
        super().__init__(tree, tokens, usage)
        self.params, self.decode = params, decode
        self.top, self.remaining = max(TOP, params.top_k), params.max_tokens
        greedy = params.greedy_first and index == 0
        self.random = None if greedy else random.Random(params.seed * STREAMS + index)
        self.uniform = self._next_uniform()
        self.generated: list[int] = []
        self.logprobs: list[float] = []
        self.finish: Literal["stop", "length"] = "length"

    def _next_uniform(self) -> float | None:
        """Return the number that decides the next token; a pass that is repeated after a failure uses it again."""
        return self.random.random() if self.random else None

    def whole_draw(self, row: int) -> Draw | None:
        """Without top-k, draw from the whole vocabulary."""
        return None if self.params.top_k else Draw(row, self.params.temperature, self.uniform)

    def can_reuse(self, found: NextTokenDistribution) -> bool:
        """Only a truncated distribution can be kept."""
        return 0 < self.params.top_k <= len(found.top_ids)

    def _advance(self, found: NextTokenDistribution, drawn: tuple[int, float] | None) -> None:
        """Append a token."""
        token, logprob = drawn or found.draw(self.params.temperature, self.params.top_k, self.uniform)
        self.tokens.append(token)
        self.generated.append(token)
        self.logprobs.append(logprob)
        self.uniform = self._next_uniform()
        self.remaining -= 1
        self.done = self.remaining == 0
        if self.params.stop.met_by(self.generated, self.decode):
            self.finish, self.done = "stop", True

    def continuation(self) -> Continuation:
        """Return the result."""
        return Continuation(tuple(self.generated), tuple(self.logprobs), self.finish)


class Request:
    """Sequences that are awaited together.

    Attributes:
        size: tokens that they may come to in the cache after their tree's base, their common beginning counted once.
    """

    def __init__(self, sequences: tuple[Sequence, ...]) -> None:
        self.sequences = sequences
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        shared = min(len(sequence.tokens) for sequence in sequences)
        self.size = shared + sum(len(sequence.tokens) - shared + sequence.remaining for sequence in sequences)
        self.size -= sequences[0].tree.base_length

    def fail(self, error: Exception) -> None:
        """Hand an exception to who waits, unless nobody does."""
        if not self.future.done():
            self.future.set_exception(error)

    def settle(self) -> None:
        """Wake who waits once all sequences are done, or one of them has failed."""
        errors = [sequence.error for sequence in self.sequences if sequence.error is not None]
        if errors:
            self.fail(errors[0])
        elif not self.future.done() and all(sequence.done for sequence in self.sequences):
            self.future.set_result(None)
