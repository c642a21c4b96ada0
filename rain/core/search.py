"""One response: simulate, expand, score, commit, rewind (Algorithm 1). Pure: no torch, no tokenizer, no model.

| Algorithm 1 | here |
|---|---|
| outer loop: until the response ends | ``Search.commits`` |
| inner loop: simulate until a child is good and visited enough | ``Search._search_root`` |
| forward: down by the upper confidence bound (equation 1) | ``Search._select_leaf``, ``tree.select_child`` |
| generate the next token sets | ``Search._expand``, ``Search._add_node`` |
| evaluate, after a rollout | ``Search._rollout``, ``Scorer.score`` |
| rewind | the next simulation starts at the root again; nothing is undone, since tokens are appended to copies |
| backward: values, visits, similarity updates (equation 2) | ``tree.backward`` |
| commit the most visited child, which becomes the root | ``tree.most_visited``, ``Search.commits`` |
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rain.core.candidates import Candidate, Candidates
from rain.core.concurrency import gather_or_cancel
from rain.core.config import RainConfig
from rain.core.engine import Session
from rain.core.observer import Observer
from rain.core.prefetch import Guess, Prefetch, guess_next
from rain.core.problem import SearchInputs
from rain.core.tree import Node, backward, mix_uniform, most_visited, needs_addition, normalise, select_child
from rain.core.types import Tokens


class Commit(NamedTuple):
    """One committed token set; it is final.

    Attributes:
        tokens: the token set.
        root: the node that was searched from, with all its statistics.
        child: the child that was committed; it is the next root, and the next simulation changes it.
        simulations: how many were run for this commit.
        finish: why the response ends with this commit ("eos", "stop", "length"), None if it continues.
    """

    tokens: Tokens
    root: Node
    child: Node
    simulations: int
    finish: str | None


class Search:
    """The state of one search; ``commits`` runs it.

    Args:
        inputs: prompt, scorer, encoder and what ends a response.
        session: of the language model.
        config: the constants.
        eager: expand a leaf in the simulation that reaches it, as the published code does, instead of when later
            simulations pass through it. It changes no decision, only what is computed.
        out_of_budget: asked before each simulation; once it says yes, the response ends with what is committed.
        prefetch: asked in each simulation how many of the next ones to compute ahead (``rain/core/prefetch.py``). It
            changes no decision, only what is computed, and when.

    Attributes:
        root: of the current tree.
        prefix: prompt and committed token ids.
        limit: length of the response in tokens, prompt included.
        simulations: how many were run (count).
        finish: why the response ended: "eos", "stop", "length", "budget", or "empty" (nothing to commit); None before.
        observer: is told what happens; None: nobody is.
    """

    def __init__(
        self,
        inputs: SearchInputs,
        session: Session,
        config: RainConfig,
        *,
        eager: bool = False,
        out_of_budget: Callable[[], bool] = lambda: False,
        prefetch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.inputs = inputs
        self.session = session
        self.config = config
        self.eager = eager
        self.out_of_budget = out_of_budget
        self.prefetch = Prefetch(
            lambda: min(prefetch(), self._left),  # not past the commit, most guesses about which would be wrong
            lambda past: guess_next(self.root, past, config),
            self._compute_ahead,
        )
        self.candidates = Candidates(session, config, inputs)
        self.root = Node((), step=0)
        self.prefix: Tokens = inputs.prompt
        self.limit = config.limit(len(inputs.prompt))
        self.simulations = 0
        self.finish: str | None = None
        self._left = 0  # simulations of the present root after the present one, at most
        self.observer: Observer | None = None

    async def commits(self) -> AsyncIterator[Commit]:
        """Yield token sets as they become final, until the response ends.

        Between two commits the tree may be read, not changed. Errors of session, scorer and encoder pass through.
        """
        self.finish = None if len(self.prefix) < self.limit else "empty"
        while self.finish is None:
            before = self.simulations
            if not await self._search_root():
                self.finish = "budget"
                return
            await self._expand(self.root, self.prefix)
            child = most_visited(self.root)
            if child is None:
                self.finish = "length" if len(self.prefix) > len(self.inputs.prompt) else "empty"
                return
            root, self.root = self.root, child
            self.prefix += child.tokens
            self.finish = self._finish(self.prefix)
            if self.observer:
                self.observer.committed(child, self.prefix, self.simulations - before, self.finish)
            yield Commit(child.tokens, root, child, self.simulations - before, self.finish)
            child.mix_priors(self.config.root_mix)
            self.prefetch.commit(self.root, self.prefix)
            self.session.commit(self.prefix)
            self.inputs.scorer.commit(self._response(self.prefix))

    async def _search_root(self) -> bool:
        """Simulate until a child is good and visited enough, or maxT is reached (inner loop); False: out of budget."""
        config, kept = self.config, self.root.visits
        longest = self.limit - len(self.inputs.prompt)
        most = config.new_simulations(self.root.step, longest, kept)
        for number in range(most):
            if self.out_of_budget():
                return False
            self._left = most - number - 1
            await self._simulate()
            best = most_visited(self.root)
            if best and best.visits > config.min_visits and best.value > config.value_threshold:
                break
        return True

    async def _simulate(self) -> None:
        """Run forward, rollout, evaluation and backward once, from the root; a later simulation expands the leaf."""
        path, prefix = await self._select_leaf()
        if self.eager:
            await self._expand(path[-1], prefix)
        self.prefetch.start(path)
        rollout = await self._rollout(prefix)
        sequence = prefix + rollout
        spans = self._spans(path, sequence)
        score, embeddings = await gather_or_cancel(
            self.inputs.scorer.score(self._response(sequence)), self.inputs.encoder.encode(spans)
        )
        updates = backward(path, score, embeddings, self.config)
        self.simulations += 1
        if self.observer:
            self.observer.visited(path, prefix, rollout, score, updates)

    async def _select_leaf(self) -> tuple[list[Node], Tokens]:
        """Return the path from the root to a leaf, and the leaf's prefix (forward)."""
        node, path, prefix = self.root, [self.root], self.prefix
        while node.visits:
            await self._expand(node, prefix)
            if not node.children:
                break
            if needs_addition(node, self.config):
                await self._add_node(node, prefix)
            node = select_child(node, self.config.exploration)
            path.append(node)
            prefix += node.tokens
        return path, prefix

    def _compute_ahead(self, guess: Guess) -> Coroutine[Any, Any, float]:
        """Compute what a simulation needs if it goes this way; return its score."""
        return self._visit_ahead(guess, self.prefix)

    async def _visit_ahead(self, guess: Guess, prefix: Tokens) -> float:
        passed = []
        for node, child in pairwise(guess.path):
            if not node.expanded:  # all of its candidates are needed to tell whether it goes to the greedy one again
                passed.append(self._candidates(node, prefix, whole=True))
            prefix += child.tokens
        found: list[float] = await gather_or_cancel(self._score_ahead(guess, prefix), *passed)
        return found[0]

    async def _score_ahead(self, guess: Guess, prefix: Tokens) -> float:
        leaf = guess.path[-1]
        for _ in range(guess.below or 0):
            if self._finish(prefix):
                break
            expanded = Node(leaf.tokens, leaf.step)
            expanded.n = max(leaf.n, 1.0)
            expanded.add_children(self._with_priors(leaf, await self._candidates(leaf, prefix, whole=False)))
            leaf = select_child(expanded, self.config.exploration)
            prefix += leaf.tokens
        rollout = await self._rollout(prefix)
        return await self.inputs.scorer.score(self._response(prefix + rollout))

    async def _rollout(self, prefix: Tokens) -> Tokens:
        """Return a rollout from the leaf with this prefix; the tokens are for scoring only."""
        return await self.prefetch.result("rollout", prefix, lambda: self.candidates.rollout(prefix, self.limit))

    async def _expand(self, node: Node, prefix: Tokens) -> None:
        """Attach children unless that was done, or the node is terminal (expansion)."""
        whole = self.eager or node.visits > 1
        if node.expanded or (node.children and not whole):
            return
        if self._finish(prefix):
            node.expanded = True
            return
        node.pool = await self._candidates(node, prefix, whole=whole)
        if node.children:  # an engine that rounds otherwise in another batch may find another token set greedy now
            node.pool = [(node.children[0].tokens, node.pool[0][1]), *node.pool[1:]]
        node.expanded = not any(math.isnan(prior) for _, prior in node.pool)
        self._attach(node, prefix, node.pool)

    async def _candidates(self, node: Node, prefix: Tokens, *, whole: bool) -> list[Candidate]:
        """Return the token sets that a node may be continued with, and their priors, which are not normalised.

        Drawn ones are all needed by the second simulation that passes through the node (``whole``), which many nodes
        never see. The first one goes to the greedy token set, whose prior ``clamp_greedy`` makes the largest.
        """
        length = self.config.token_set_length(node.step)
        if length == 1:
            count = self.config.candidates
            return await self.prefetch.result("top", prefix, lambda: self.candidates.most_likely(prefix, count))
        if not whole:
            return await self.prefetch.result("greedy", prefix, lambda: self.candidates.greedy(prefix, length))
        return await self.prefetch.result("expand", prefix, lambda: self.candidates.draw(prefix, length))

    async def _add_node(self, node: Node, prefix: Tokens) -> None:
        """Add a child to a node whose children are alike and bad (node addition).

        Source: the published code (``add`` in nodes.py): fresh candidates go in front of the pool, and the first
        children + 1 of it are offered. Those that are children already keep their priors, so that none may be added.
        """
        wanted = len(node.children) + 1
        length = len(node.children[0].tokens)
        if length == 1:
            chosen = await self.candidates.most_likely(prefix, wanted)
        else:
            node.pool = await self.candidates.draw_more(prefix, length, len(node.pool)) + node.pool
            chosen = node.pool[:wanted]
        self._attach(node, prefix, chosen)

    def _attach(self, node: Node, prefix: Tokens, pool: Sequence[Candidate]) -> None:
        """Give a node the candidates that it lacks as children, and the greedy one its prior once that is known."""
        found = self._with_priors(node, pool)
        completes = bool(node.children) and math.isnan(node.children[0].prior)
        if completes:
            node.children[0].prior = found[0][1]
        children = node.add_children(found)
        if self.observer and (children or completes):
            self.observer.added(node, prefix, children)

    def _with_priors(self, node: Node, pool: Sequence[Candidate]) -> list[Candidate]:
        """Normalise the priors of candidates, and mix them where the node is the root of the current search."""
        priors = normalise([prior for _, prior in pool])
        if node is self.root:
            priors = mix_uniform(priors, self.config.root_mix)
        return [(tokens, prior) for (tokens, _), prior in zip(pool, priors, strict=True)]

    def _spans(self, path: Sequence[Node], sequence: Tokens) -> list[Tokens]:
        """Return for each node of the path but the root the ids from its first token to the end of the rollout."""
        if not (self.config.similarity_update or self.config.node_addition):
            return []
        spans, start = [], len(self.prefix)
        for node in path[1:]:
            spans.append(sequence[start:])
            start += len(node.tokens)
        return spans

    def _response(self, sequence: Tokens) -> Tokens:
        return sequence[len(self.inputs.prompt) :]

    def _finish(self, sequence: Tokens) -> str | None:
        """Tell why the response ends here: by its text, or by its length (tokens, prompt included)."""
        by_text = self.inputs.policy.finish(self._response(sequence[: self.limit]))
        return by_text or ("length" if len(sequence) >= self.limit else None)
