"""A toy model whose sessions are counted, and one that writes text that is hard to stream."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rain.engines import toy
from rain.engines.toy import EOS, ToyEngine, ToySession
from rain.generation import Answer

FAST = {"max_simulations": 8, "extra_simulations": 4, "candidates": 4, "max_draws": 3, "max_new_tokens": 24}
QUESTIONS = ["Is the sea salty?", "Why", "How do I fix a bicycle?"]
DIFFICULT = tuple(text.encode() for text in ("\U0001f600", "\n\nHuman:", "\x1b[2J", "  "))


class WatchedEngine(ToyEngine):
    """Counts its sessions.

    Attributes:
        opened: names of all sessions so far.
        active: how many are open.
        idle: set while none is.
        closed: whether the engine was closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.active = 0
        self.idle = threading.Event()
        self.closed = False

    def session(self, name: str) -> ToySession:
        self.opened.append(name)
        self.active += 1
        self.idle.clear()
        return WatchedSession(self)

    async def close(self) -> None:
        self.closed = True


class WatchedSession(ToySession):
    engine: WatchedEngine
    is_open = True

    async def close(self) -> None:
        self.engine.active -= self.is_open
        self.is_open = False
        if not self.engine.active:
            self.engine.idle.set()


def decided(answer: Answer) -> tuple[object, ...]:
    """Return what a search has decided, and not what it cost."""
    return answer.text, answer.finish, answer.commits, answer.tokens


plain_distribution = toy.log_distribution


def difficult_distribution(prefix: Sequence[int]) -> NDArray[np.float64]:
    """Return log-probabilities of next bytes that often begin or continue an emoji, a stop string, an escape, a gap."""
    result = plain_distribution(prefix)
    draw = np.random.default_rng([len(prefix), *prefix[-8:]])
    recent = bytes(token for token in prefix[-12:] if token < EOS)
    for text in DIFFICULT:
        begun = max(k for k in range(len(text)) if recent.endswith(text[:k]))
        result[text[begun]] = draw.uniform(-1, 3) if begun else draw.uniform(-7, 0)
    normalised: NDArray[np.float64] = result - np.log(np.exp(result).sum())
    return normalised
