"""What the scheduler advances: a continuation that is being generated, or a question about the next token."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Literal

from rain.core.engine import Continuation, Stop, Usage
from rain.engines.local.kv_cache import ROOT, KvTree
from rain.engines.local.sampling import TOP, Draw, Row

STREAMS = 1 << 20


class Pending(ABC):
    """Tokens in a tree whose next-token distribution is wanted.

    Attributes:
        tree: where the tokens are cached.
        tokens: ids after the tree's base.
        chain: slots of the tokens that are cached already; valid for ``version`` of the tree.
        usage: of the session that pays.
        top: how many of the most likely ids are wanted.
        lookups: ids whose log-probabilities are wanted besides.
        done: whether the sequence needs nothing more.
        room: tokens that may still be generated.
    """

    done = False
    room = 0

    def __init__(self, tree: KvTree, tokens: list[int], usage: Usage) -> None:
        self.tree = tree
        self.tokens = tokens
        self.usage = usage
        self.chain: list[int] = []
        self.version = -1
        self.top = TOP
        self.lookups: Collection[int] = ()

    def sync(self) -> None:
        """Follow the tree: take over slots that other sequences computed, and forget renumbered ones."""
        if self.version != self.tree.version:
            self.chain, self.version = self.tree.walk(self.tokens), self.tree.version
            return
        slot = self.chain[-1] if self.chain else ROOT
        for token in self.tokens[len(self.chain) :]:
            found = self.tree.child(slot, token)
            if found is None:
                return
            self.chain.append(found)
            slot = found

    def whole_draw(self, row: int) -> Draw | None:
        """Return what to draw from the whole vocabulary of a row, None if its most likely ids are enough."""
        return None

    @abstractmethod
    def satisfied_by(self, row: Row) -> bool:
        """Tell whether a distribution that was brought back before is enough."""

    @abstractmethod
    def take(self, row: Row, drawn: tuple[int, float] | None) -> bool:
        """Go on with the distribution (and the token drawn from the whole vocabulary); return whether it is done."""


class Question(Pending):
    """Asks for log-probabilities of the next token."""

    def __init__(self, tree: KvTree, tokens: list[int], usage: Usage, top: int, ids: Collection[int]) -> None:
        super().__init__(tree, tokens, usage)
        self.asked, self.top, self.lookups = top, max(top, TOP), ids
        self.answer: dict[int, float] = {}

    def satisfied_by(self, row: Row) -> bool:
        """Check that every id was brought back."""
        return len(row.top_ids) >= self.asked and all(row.logprob(token) is not None for token in self.lookups)

    def take(self, row: Row, drawn: tuple[int, float] | None) -> bool:
        """Read the answer."""
        self.answer = row.top(self.asked)
        for token in self.lookups:
            logprob = row.logprob(token)
            assert logprob is not None, "the pass was asked for this id"
            self.answer[token] = logprob
        return True


class Continuing(Pending):
    """Generates one continuation, token by token."""

    def __init__(
        self,
        tree: KvTree,
        tokens: list[int],
        usage: Usage,
        *,
        max_tokens: int,
        temperature: float,
        top_k: int,
        stop: Stop,
        stream: int | None,
        decode: Callable[[list[int]], str],
    ) -> None:
        """``stream``: seeds the draws; None takes the most likely token each time."""
        super().__init__(tree, tokens, usage)
        self.prefix_length = len(tokens)
        self.temperature, self.top_k, self.stop = temperature, top_k, stop
        self.top = max(TOP, top_k)
        self.random = None if stream is None else random.Random(stream)
        self.uniform: float | None = None
        self.decode = decode
        self.logprobs: list[float] = []
        self.finish: Literal["stop", "length"] = "length"
        self.room = max_tokens
        self._tail = 4 * max((len(string) for string in stop.strings), default=0) + 4
        self._roll()

    def _roll(self) -> None:
        self.uniform = None if self.random is None else self.random.random()

    def whole_draw(self, row: int) -> Draw | None:
        """Without top-k the whole vocabulary is drawn from."""
        return None if self.top_k else Draw(row, self.temperature, self.uniform)

    def satisfied_by(self, row: Row) -> bool:
        """Only a truncated distribution can be kept."""
        return bool(self.top_k) and len(row.top_ids) >= self.top_k

    def take(self, row: Row, drawn: tuple[int, float] | None) -> bool:
        """Append a token."""
        token, logprob = drawn or row.draw(self.temperature, self.top_k, self.uniform)
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.room -= 1
        self._roll()
        if token in self.stop.token_ids or self._at_string():
            self.finish = "stop"
            return True
        return self.room == 0

    def _at_string(self) -> bool:
        if not self.stop.strings:
            return False
        text = self.decode(self.tokens[self.prefix_length :][-self._tail :])
        return any(string in text for string in self.stop.strings)

    def continuation(self) -> Continuation:
        """Return the result."""
        return Continuation(tuple(self.tokens[self.prefix_length :]), tuple(self.logprobs), self.finish)
