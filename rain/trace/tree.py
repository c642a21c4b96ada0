"""Rebuilds the tree of a recorded search, event by event."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rain.core.errors import RainError
from rain.core.tree import Node
from rain.trace.read import TraceEvent


class Tree:
    """A search as it was after some of its events.

    Args:
        events: of a trace, from its beginning; ``events[:k]`` gives the tree after the k-th.

    Attributes:
        nodes: by number, without embeddings and pools; prior, n, visits and value are those of the search.
        root: that was searched from.
        commits: numbers of the committed nodes.
        simulations: how many were run (count).

    Raises:
        RainError: an event does not fit those before it.
    """

    def __init__(self, events: Iterable[TraceEvent] = ()) -> None:
        self.nodes = [Node((), step=0)]
        self.root = self.nodes[0]
        self.commits: list[int] = []
        self.simulations = 0
        self._root_mix = 0.0
        for number, event in enumerate(events, 1):
            try:
                self.apply(event)
            except (LookupError, TypeError, ValueError) as error:
                kind = event.get("event")
                raise RainError(f"event {number} ({kind}) of the trace does not fit: {error!r}") from error

    def apply(self, event: TraceEvent) -> None:
        """Do what the search did."""
        kind = event["event"]
        if kind == "search":
            self._root_mix = float(event["config"]["root_mix"])
        elif kind == "nodes":
            parent = self.nodes[event["parent"]]
            if "first_prior" in event:
                parent.children[0].prior = event["first_prior"]
            priors = [math.nan if prior is None else prior for prior in event["priors"]]
            self.nodes += parent.add_children(list(zip(map(tuple, event["tokens"]), priors, strict=True)))
        elif kind == "visit":
            self._visit(event)
        elif kind == "commit":
            self.root = self.nodes[event["node"]]
            self.commits.append(event["node"])
            self.root.mix_priors(self._root_mix)

    def _visit(self, event: TraceEvent) -> None:
        score = float(event["score"])
        self.simulations += 1
        for number, weight in event["similar"]:
            self.nodes[number].learn(score, weight)
        for number in event["path"]:
            node = self.nodes[number]
            node.n, node.visits = node.n + 1, node.visits + 1
            node.value += (score - node.value) / node.n
