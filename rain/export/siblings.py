"""What a search chose between: a recorded search (`--trace`) as pairs of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.config import RainConfig
from rain.trace import Tree, read


class Choice(NamedTuple):
    """A commit.

    Attributes:
        chosen, rejected: the answer up to and with the committed token set, and with its sibling of the smallest value,
            each without what follows its end.
        chosen_value, rejected_value: their values at the commit, in [-1, 1].
    """

    chosen: str
    rejected: str
    chosen_value: float
    rejected_value: float


def sibling_pairs(trace: Path) -> Iterator[Choice]:
    """Yield each commit of a recorded search that was visited and had siblings which were.

    Left out are texts beyond the length limit, of which nobody knows where they would be cut, and pairs that are equal
    or have an empty text.

    Raises:
        RainError: the file cannot be read, or is not a recorded search.
    """
    events = read(trace).events
    config, prompt = RainConfig(**events[0]["config"]), events[0]["prompt_tokens"]
    replayed = Replayed(config.limit(prompt) - prompt)
    for event in events:
        if event["event"] == "nodes":
            replayed.texts += event["texts"]
        elif event["event"] == "visit":
            replayed.visit(event)
        elif event["event"] == "commit":
            if found := replayed.commit(event):
                yield found
        replayed.tree.apply(event)


class Replayed:
    """A recorded search up to an event, with the texts of its answer.

    Args:
        room: tokens that the answer may still have.

    Attributes:
        tree: as it is.
        texts: of the nodes, by their numbers.
    """

    def __init__(self, room: int) -> None:
        self.tree, self.texts = Tree(), [""]
        self._room, self._committed = room, ""
        self._ended: dict[int, str] = {}  # where an answer ends within the node, and that answer

    def visit(self, event: Mapping[str, Any]) -> None:
        """Learn from what the evaluators saw which nodes of the path go beyond the end of the answer."""
        if "text" not in event:
            return
        whole = self._committed
        for node in event["path"][1:]:
            whole += self.texts[node]
            if whole.strip().startswith(event["text"].strip()):
                self._ended[node] = event["text"]

    def commit(self, event: Mapping[str, Any]) -> Choice | None:
        """Follow a commit; return the pair, None if there is none."""
        number = {id(node): i for i, node in enumerate(self.tree.nodes)}
        chosen = self.tree.nodes[event["node"]]
        siblings = [node for node in self.tree.root.children if node is not chosen and node.visits]
        worst = min(siblings, key=lambda node: node.value, default=chosen)
        one, other = (self._answer(number[id(node)]) for node in (chosen, worst))
        fits = max(len(chosen.tokens), len(worst.tokens)) <= self._room
        self._committed += self.texts[event["node"]]
        self._room -= len(chosen.tokens)
        if not (chosen.visits and fits and one.strip() and other.strip()) or one.strip() == other.strip():
            return None
        return Choice(one, other, chosen.value, worst.value)

    def _answer(self, node: int) -> str:
        """Return the answer up to and with a child of the root."""
        return self._ended.get(node, self._committed + self.texts[node])
