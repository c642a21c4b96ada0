"""Who watches a search. An observer changes nothing; it may read nodes while it is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rain.core.tree import Node, Update
from rain.core.types import Tokens


class Observer(Protocol):
    """Is told of each change of a tree, after it."""

    def added(self, parent: Node, prefix: Tokens, children: Sequence[Node]) -> None:
        """Learn that a node has new children, or that the prior of the first one, not a number before, is known.

        ``prefix`` are the ids up to and with the node.
        """

    def visited(
        self, path: Sequence[Node], prefix: Tokens, rollout: Tokens, score: float, updates: Sequence[Update]
    ) -> None:
        """Learn of a simulation.

        Args:
            path: from the root to the leaf.
            prefix: ids up to and with the leaf.
            rollout: ids that followed, for scoring only.
            score: of the text.
            updates: siblings that learnt from the score, too.
        """

    def committed(self, child: Node, prefix: Tokens, simulations: int, finish: str | None) -> None:
        """Learn that a child of the root is the next root.

        Args:
            child: that was chosen; its children's priors are mixed after this call.
            prefix: ids up to and with it.
            simulations: run for this commit.
            finish: why the response ends with it, None if it continues.
        """
