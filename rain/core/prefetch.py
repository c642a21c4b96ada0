"""Computing ahead: what the next simulation will probably need, while the present one is scored.

Simulations of one search follow each other, and each is a few passes of the model with a few tokens, which is mostly
the reading of the weights. So further simulations in the same passes cost little, if their leaves can be guessed before
the score is known. Requests are functions of key and prefix alone: what was computed for a right guess is what would
have been computed anyway, and a wrong guess is waste. The tree is changed by real simulations only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from rain.core.concurrency import cancel_all, start_shared
from rain.core.config import RainConfig
from rain.core.tree import Node, needs_addition, select_child
from rain.core.types import Tokens

Result = TypeVar("Result")

MOST_BELOW = 2
"""Generations that a guess goes below what is known, at most."""


class Visit(NamedTuple):
    """A simulation that is not in the tree yet: its path, root first, and its score; None: not known yet."""

    path: Sequence[Node]
    score: float | None


class Guess(NamedTuple):
    """Where a simulation will probably go.

    Attributes:
        path: from the root down, as far as it can be told.
        below: how many generations below its last node, whose children are not known yet, the leaf is, if the child
            that is chosen first is taken each time (at most ``MOST_BELOW``); None: too many for a guess.
    """

    path: Sequence[Node]
    below: int | None


def guess_next(root: Node, visits: Sequence[Visit], config: RainConfig) -> Guess:
    """Return where the simulation after these visits goes.

    A leaf whose score is not known yet is expected to score like its parent; similarity updates are left out.

    Args:
        root: of the search; its tree is left as it is.
        visits: in their order.
        config: the constants.
    """
    with pretended(visits):
        path = [root]
        while path[-1].children and not needs_addition(path[-1], config):
            path.append(select_child(path[-1], config.exploration))
    leaf = path[-1]
    times = bool(leaf.visits) + sum(visit.path[-1] is leaf for visit in visits)
    return Guess(path, None if leaf.children or times > MOST_BELOW else times)


@contextmanager
def pretended(visits: Sequence[Visit]) -> Iterator[None]:
    """Have the nodes the counts and values that these visits would give them, for as long as the context lasts."""
    before: dict[Node, tuple[float, float]] = {}
    try:
        for path, known in visits:
            score = known if known is not None else next((node.value for node in reversed(path) if node.n), 0.0)
            for node in path:
                before.setdefault(node, (node.n, node.value))
                node.n += 1
                node.value += (score - node.value) / node.n
        yield
    finally:
        for node, (n, value) in before.items():
            node.n, node.value = n, value


class Prefetch:
    """What one search computes ahead.

    Args:
        limit: asked how many simulations to guess after the present one; each guess builds on those before it.
        guess: returns the next guess after some visits.
        compute: computes what a guess needs; returns its score.
    """

    def __init__(
        self,
        limit: Callable[[], int],
        guess: Callable[[Sequence[Visit]], Guess],
        compute: Callable[[Guess], Coroutine[Any, Any, float]],
    ) -> None:
        self._limit, self._guess, self._compute = limit, guess, compute
        self._guesses: dict[tuple[Node, int], tuple[Guess, asyncio.Task[float]]] = {}
        self._results: dict[tuple[str, Tokens], asyncio.Task[Any]] = {}

    def start(self, path: Sequence[Node]) -> None:
        """Compute ahead what is probably needed after the simulation of this path, which begins."""
        visits = [Visit(path, None)]
        for _ in range(self._limit()):
            guess = self._guess(visits)
            known = None
            if guess.below is not None:
                key = guess.path[-1], guess.below
                if key not in self._guesses:
                    self._guesses[key] = guess, start_shared(self._compute(guess))
                known = self._guesses[key]
            visits.append(Visit(guess.path, _score(known[1]) if known else None))

    async def result(self, kind: str, prefix: Tokens, compute: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return what a guess has computed of this kind for a prefix, or compute it."""
        key = kind, prefix
        if key not in self._results:
            if not self._guesses:
                return await compute()
            self._results[key] = start_shared(compute())
        found: Result = await asyncio.shield(self._results[key])
        return found

    def commit(self, root: Node, prefix: Tokens) -> None:
        """Give up what no later request needs: whatever is not below ``root``, the committed prefix."""
        for kind, known in list(self._results):
            if known[: len(prefix)] != prefix:
                self._results.pop((kind, known)).cancel()
        for key, (guess, task) in list(self._guesses.items()):
            if root not in guess.path:
                task.cancel()
            if root not in guess.path or task.done():
                del self._guesses[key]

    async def close(self) -> None:
        """Give up everything."""
        await cancel_all([*(task for _, task in self._guesses.values()), *self._results.values()])


def _score(task: asyncio.Task[float]) -> float | None:
    """Return a score that has been computed already."""
    return None if not task.done() or task.cancelled() or task.exception() else task.result()
