"""What a search chose between: a recorded search (`--trace`) as pairs of texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
    prompt = events[0]["prompt_tokens"]
    room = RainConfig(**events[0]["config"]).limit(prompt) - prompt  # tokens that the answer may still have
    tree, texts, committed = Tree(), [""], ""
    ended: dict[int, str] = {}  # where an answer ends within the node, and that answer
    for event in events:
        if event["event"] == "nodes":
            texts += event["texts"]
        elif event["event"] == "visit" and "text" in event:  # which tells the nodes that go beyond the answer's end
            whole = committed
            for node in event["path"][1:]:
                whole += texts[node]
                if whole.strip().startswith(event["text"].strip()):
                    ended[node] = event["text"]
        elif event["event"] == "commit":
            number = {id(node): i for i, node in enumerate(tree.nodes)}
            chosen = tree.nodes[event["node"]]
            siblings = [node for node in tree.root.children if node is not chosen and node.visits]
            worst = min(siblings, key=lambda node: node.value, default=chosen)
            one, other = (ended.get(i, committed + texts[i]) for i in (number[id(chosen)], number[id(worst)]))
            fits = max(len(chosen.tokens), len(worst.tokens)) <= room
            committed += texts[event["node"]]
            room -= len(chosen.tokens)
            if chosen.visits and fits and one.strip() and other.strip() and one.strip() != other.strip():
                yield Choice(one, other, chosen.value, worst.value)
        tree.apply(event)
