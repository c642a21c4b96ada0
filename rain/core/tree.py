"""The search tree: nodes, selection and the backward pass (no model in sight)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rain.core.config import RainConfig
from rain.core.types import Tokens, Vector

VALUE_MIN, VALUE_MAX = -1.0, 1.0


class Node:
    """One token set of the tree.

    Attributes:
        tokens: the token set; the ids that this node adds to its parent's prefix.
        step: 0 for the root of the first search, one more for each generation; re-rooting does not reset it.
        prior: p, the probability of the token set among its siblings; not a number while these are not drawn.
        n: visit count with the fractions that similarity updates add.
        visits: whole visits through this node.
        value: q, the running mean of the scores, in [-1, 1].
        embedding: e, the running mean of the sentence embeddings that passed through, None before the first visit.
        children: in the order in which ties are broken.
        pool: the candidates with unnormalised priors that children were taken from; grows by node addition.
        expanded: whether all children were asked for; the greedy one alone may be there before.
    """

    __slots__ = ("tokens", "step", "prior", "n", "visits", "value", "embedding", "children", "pool", "expanded")

    def __init__(self, tokens: Tokens, step: int, prior: float = 1.0) -> None:
        self.tokens = tokens
        self.step = step
        self.prior = prior
        self.n = 0.0
        self.visits = 0
        self.value = 0.0
        self.embedding: Vector | None = None
        self.children: list[Node] = []
        self.pool: list[tuple[Tokens, float]] = []
        self.expanded = False

    def add_children(self, candidates: Sequence[tuple[Tokens, float]]) -> list[Node]:
        """Append a child for each (token set, prior) that is not a child yet; return the new ones."""
        present, before = {child.tokens for child in self.children}, len(self.children)
        for tokens, prior in candidates:
            if tokens not in present:
                present.add(tokens)
                self.children.append(Node(tokens, self.step + 1, prior))
        return self.children[before:]

    def learn(self, score: float, weight: float) -> None:
        """Fold in a score that counts as this fraction of a visit (equation 2)."""
        self.value = (self.value * self.n + weight * score) / (self.n + weight)
        self.n += weight

    def mix_priors(self, share: float) -> None:
        """Mix the children's priors with the uniform distribution, then normalise them, where a node becomes the root.

        Source: the published code (``gmeval`` in HH/main.py); the paper has no such step. The priors are not normalised
        before: after node addition they may sum to more than 1.
        """
        mixed = normalise(mix_uniform([child.prior for child in self.children], share))
        for child, prior in zip(self.children, mixed, strict=True):
            child.prior = prior


def normalise(priors: Sequence[float]) -> list[float]:
    """Divide priors by their sum; those of long token sets may all be 0, and count alike then."""
    total = sum(priors)
    return [prior / total if total else 1 / len(priors) for prior in priors]


def mix_uniform(priors: Sequence[float], share: float) -> list[float]:
    """Mix normalised priors with the uniform distribution; ``share`` in [0, 1] (root exploration)."""
    return [(1 - share) * prior + share / len(priors) for prior in priors]


def clamp_greedy(priors: Sequence[float]) -> list[float]:
    """Clamp the first (greedy) prior: at most the sum of the others, then at least their largest + smallest.

    Source: the published code (``group_getp`` in HH/main.py); the paper is silent. In this order, so that the lower
    bound wins where they cross. A greedy token set without others keeps its prior.
    """
    first, others = priors[0], list(priors[1:])
    if others:
        first = max(min(first, sum(others)), max(others) + min(others))
    return [first, *others]


def upper_confidence(parent: Node, child: Node, exploration: float) -> float:
    """Return Q + U of a child (equation 1; Q is scaled to [0, 1], and 0 for an unvisited child).

    Source: the published code (``getqu`` in nodes.py). It tracks the bounds of Q from -1 and 1 on, which scores never
    move; the 1e-5, its guard against equal bounds, stays because it moves ties. The n under the root is the parent's
    own, where the paper sums those of the children. An unvisited child has the worst Q, not one in the middle.
    """
    scaled = 0.0 if child.n == 0 else (child.value - VALUE_MIN) / (VALUE_MAX - VALUE_MIN + 1e-5)
    return scaled + exploration * child.prior * math.sqrt(parent.n) / (1 + child.n)


def select_child(parent: Node, exploration: float) -> Node:
    """Return the child with the largest upper confidence bound; the first in child order wins a tie."""
    return max(parent.children, key=lambda child: upper_confidence(parent, child, exploration))


def most_visited(root: Node) -> Node | None:
    """Return the child with the largest n, ties by larger value, None without children."""
    return max(root.children, key=lambda child: (child.n, child.value), default=None)


def needs_addition(node: Node, config: RainConfig) -> bool:
    """Tell whether the children of a node that is passed through are alike, all bad and few (node addition).

    Source: the published code (``checkadd`` in nodes.py): the norm of the unbiased variance, below 0.03 for each token
    of the first child. Of a single child that variance is not a number, which is never below anything.
    """
    children = node.children
    if not config.node_addition or not children or len(children) >= config.max_children:
        return False
    embeddings = [child.embedding for child in children if child.embedding is not None]
    if len(embeddings) < len(children) or len(children) < 2 or max(child.value for child in children) >= 0:
        return False
    spread = float(np.linalg.norm(np.var(np.stack(embeddings), axis=0, ddof=1)))
    return spread < config.variance_threshold * len(children[0].tokens)


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine of two vectors, 0 if one of them is null."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / scale if scale > 0 else 0.0


Update = tuple[Node, float]
"""A sibling that learnt from a score, and the weight of the score."""


def update_similar(node: Node, siblings: Sequence[Node], score: float, config: RainConfig) -> list[Update]:
    """Fold the score into every visited sibling whose text is like the node's (equation 2); return which."""
    updates: list[Update] = []
    if node.embedding is None:
        return updates
    for other in siblings:
        if other is node or other.embedding is None:
            continue
        similarity = cosine(node.embedding, other.embedding)
        if similarity >= config.similarity_threshold:
            weight = config.similarity_weight * similarity
            other.learn(score, weight)
            updates.append((other, weight))
    return updates


def backward(path: Sequence[Node], score: float, embeddings: Sequence[Vector], config: RainConfig) -> list[Update]:
    """Carry a score from the leaf to the root; return the similarity updates.

    Args:
        path: root first, leaf last.
        score: of the rolled-out text, in [-1, 1].
        embeddings: one for each node of the path but the root: of the text from the node's first token to the end of
            the rollout. May be empty if neither similarity updates nor node addition are on.
        config: see RainConfig.

    Source: the published code (``backup`` in nodes.py): at each node n and visits first, then embedding and siblings,
    then the parent, and the node's own value last. Similarity updates touch siblings only, never the path, so the
    path's values can wait until the end.
    """
    updates: list[Update] = []
    for depth in range(len(path) - 1, -1, -1):
        node = path[depth]
        node.n += 1
        node.visits += 1
        if depth and embeddings:
            fresh = embeddings[depth - 1]
            seen = node.embedding
            node.embedding = fresh if seen is None else seen + (fresh - seen) / node.visits
            if config.similarity_update:
                updates += update_similar(node, path[depth - 1].children, score, config)
    for node in path:
        node.value += (score - node.value) / node.n
    return updates
