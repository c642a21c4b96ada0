"""One response: simulate, expand, score, commit, rewind (Algorithm 1). Pure: no torch, no tokenizer, no model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from rain.config import RainConfig
from rain.engines.base import Engine, Tokens
from rain.problem import Problem, request_seed
from rain.tree import (
    Node,
    backward,
    clamp_greedy,
    mix_uniform,
    most_visited,
    normalise,
    select_child,
    wants_addition,
)


class Commit(NamedTuple):
    """One committed token set; it is final.

    Attributes:
        tokens: the token set.
        root: the node that was searched from, with all its statistics.
        child: the child that was committed; it is the next root, and the next simulation changes it.
        simulations: how many were run for this commit.
        finish: why the response ends with this commit ("eos", "stop", "length"), None if it goes on.
    """

    tokens: Tokens
    root: Node
    child: Node
    simulations: int
    finish: str | None


class Search:
    """The state of one search; ``commits`` runs it."""

    def __init__(self, problem: Problem, engine: Engine, config: RainConfig) -> None:
        self.problem = problem
        self.engine = engine
        self.config = config
        self.root = Node((), step=0)
        self.prefix: Tokens = problem.prompt
        self.limit = config.limit(len(problem.prompt))
        self.simulations = 0

    async def commits(self) -> AsyncIterator[Commit]:
        """Yield token sets as they become final, until the response ends.

        Between two commits the tree may be read, not changed. Errors of engine, scorer and encoder pass through.
        """
        finish = None if len(self.prefix) < self.limit else "length"
        while finish is None:
            before = self.simulations
            await self._search_root()
            await self._expand(self.root, self.prefix)
            child = most_visited(self.root)
            if child is None:
                return
            root, self.root = self.root, child
            self.prefix += child.tokens
            finish = self._finish(self.prefix)
            yield Commit(child.tokens, root, child, self.simulations - before, finish)
            if child.children:
                child.mix_priors(self.config.root_mix)
            self.engine.commit(self.prefix)
            self.problem.scorer.commit(self._response(self.prefix))

    async def _search_root(self) -> None:
        """Simulate until a child is good and visited enough, or the budget is spent (inner loop)."""
        config, kept = self.config, self.root.visits
        for _ in range(max(config.max_simulations, kept + config.extra_simulations) - kept):
            await self._simulate()
            best = most_visited(self.root)
            if best and best.visits > config.min_visits and best.value > config.value_threshold:
                return

    async def _simulate(self) -> None:
        """Run forward, rollout, self-evaluation and backward once; expansion waits for the next passage."""
        path, prefix = await self._forward()
        text = prefix + await self._rollout(prefix)
        spans = self._spans(path, text)
        score, embeddings = await asyncio.gather(
            self.problem.scorer.score(self._response(text)), self.problem.encoder.encode(spans)
        )
        backward(path, score, embeddings, self.config)
        self.simulations += 1

    async def _forward(self) -> tuple[list[Node], Tokens]:
        """Return the path from the root to a leaf, and the leaf's prefix."""
        node, path, prefix = self.root, [self.root], self.prefix
        while node.visits:
            await self._expand(node, prefix)
            if not node.children:
                break
            if wants_addition(node, self.config):
                await self._add_node(node, prefix)
            node = select_child(node, self.config.exploration)
            path.append(node)
            prefix += node.tokens
        return path, prefix

    async def _rollout(self, prefix: Tokens) -> Tokens:
        """Continue a leaf by plain sampling up to the next pause; the tokens are for scoring only."""
        rules, room = self.problem.rules, self.limit - len(prefix)
        if room <= 0 or rules.complete(self._response(prefix)):
            return ()
        [continuation] = await self.engine.generate(
            prefix,
            max_tokens=rules.rollout_tokens(room),
            stop=rules.rollout_stop,
            seed=request_seed(self.problem.key, "rollout", prefix),
        )
        return continuation.tokens

    async def _expand(self, node: Node, prefix: Tokens) -> None:
        """Attach children unless that was done, or the node is terminal (expansion)."""
        if node.expanded:
            return
        node.expanded = True
        if self._finish(prefix):
            return
        length = self.config.token_set_length(node.step)
        if length == 1:
            node.pool = await self._most_likely(prefix, self.config.candidates)
        else:
            node.pool = await self._draw(prefix, length, self.config.candidates, "expand", 0)
        node.add_children(self._with_priors(node, node.pool))

    async def _add_node(self, node: Node, prefix: Tokens) -> None:
        """Add a child to a node whose children are alike and bad (node addition)."""
        wanted = len(node.children) + 1
        length = len(node.children[0].tokens)
        if length == 1:
            chosen = await self._most_likely(prefix, wanted)
        else:
            fresh = await self._draw(prefix, length, 2, "add", len(node.pool))
            node.pool = fresh + node.pool
            chosen = node.pool[:wanted]
        node.add_children(self._with_priors(node, chosen))

    async def _most_likely(self, prefix: Tokens, count: int) -> list[tuple[Tokens, float]]:
        """Return the most likely next tokens with their probabilities, by token id."""
        logprobs = await self.engine.next_logprobs(prefix, top=count)
        return [((token,), math.exp(logprob)) for token, logprob in sorted(logprobs.items())]

    async def _draw(self, prefix: Tokens, length: int, count: int, what: str, salt: int) -> list[tuple[Tokens, float]]:
        """Return distinct candidates, the greedy one first, with clamped products of token probabilities.

        ``count - 1`` are drawn at once; where a larger ``max_draws`` allows, duplicates are drawn anew.
        """
        config, found = self.config, dict[Tokens, float]()
        draws, drawn = (config.max_draws if what == "expand" else count - 1), 0
        while True:
            greedy = not found
            missing = count - 1 if greedy else min(count - len(found), draws - drawn)
            for continuation in await self.engine.generate(
                prefix,
                n=missing + greedy,
                max_tokens=length,
                temperature=config.candidate_temperature,
                top_k=config.top_k,
                greedy_first=greedy,
                seed=request_seed(self.problem.key, what, prefix, salt + drawn),
            ):
                found.setdefault(continuation.tokens, math.exp(sum(continuation.logprobs)))
            drawn += missing
            if len(found) >= count or drawn >= draws:
                return list(zip(found, clamp_greedy(list(found.values())), strict=True))

    def _with_priors(self, node: Node, pool: Sequence[tuple[Tokens, float]]) -> list[tuple[Tokens, float]]:
        """Normalise the priors of candidates, and mix them where the node is the root of the current search."""
        priors = normalise([prior for _, prior in pool])
        if node is self.root:
            priors = mix_uniform(priors, self.config.root_mix)
        return [(tokens, prior) for (tokens, _), prior in zip(pool, priors, strict=True)]

    def _spans(self, path: Sequence[Node], text: Tokens) -> list[Tokens]:
        """Return for each node of the path but the root the text from its first token to the end of the rollout."""
        if not (self.config.similarity_update or self.config.node_addition):
            return []
        spans, start = [], len(self.prefix)
        for node in path[1:]:
            spans.append(text[start:])
            start += len(node.tokens)
        return spans

    def _response(self, text: Tokens) -> Tokens:
        return text[len(self.problem.prompt) :]

    def _finish(self, text: Tokens) -> str | None:
        """Tell why the response ends here: by its text, or by its length (tokens, prompt included)."""
        by_text = self.problem.rules.finish(self._response(text[: self.limit]))
        return by_text or ("length" if len(text) >= self.limit else None)
