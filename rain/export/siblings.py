"""What a search chose between: a recorded search (`--trace`) as pairs of texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rain.trace import Tree, read


class Choice(NamedTuple):
    """A commit.

    Attributes:
        chosen, rejected: the answer up to and with the committed token set, and with its sibling of the smallest value.
        chosen_value, rejected_value: their values at the commit, in [-1, 1].
    """

    chosen: str
    rejected: str
    chosen_value: float
    rejected_value: float


def choices(trace: Path) -> Iterator[Choice]:
    """Yield each commit of a recorded search that had siblings which were visited.

    Raises:
        RainError: the file cannot be read, or is not a recorded search.
    """
    tree, texts, committed = Tree(), [""], ""
    for event in read(trace).events:
        if event["event"] == "nodes":
            texts += event["texts"]
        if event["event"] == "commit":
            number = {id(node): i for i, node in enumerate(tree.nodes)}
            chosen = tree.nodes[event["node"]]
            if others := [node for node in tree.root.children if node is not chosen and node.visits]:
                worst = min(others, key=lambda node: node.value)
                one, other = (committed + texts[number[id(node)]] for node in (chosen, worst))
                yield Choice(one, other, chosen.value, worst.value)
            committed += texts[event["node"]]
        tree.apply(event)
