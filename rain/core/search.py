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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from rain.core.concurrency import gather_or_cancel
from rain.core.config import RainConfig
from rain.core.engine import SamplingParams, Session
from rain.core.observer import Observer
from rain.core.problem import SearchInputs, request_seed
from rain.core.tree import (
    Node,
    backward,
    clamp_greedy,
    mix_uniform,
    most_visited,
    needs_addition,
    normalise,
    select_child,
)
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
        eager: expand a leaf in the simulation that reaches it, as the published code does, instead of when a later
            simulation first passes through it. It changes no decision, only what is computed.
        out_of_budget: asked before each simulation; once it says yes, the response ends with what is committed.

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
    ) -> None:
        self.inputs = inputs
        self.session = session
        self.config = config
        self.eager = eager
        self.out_of_budget = out_of_budget
        self.root = Node((), step=0)
        self.prefix: Tokens = inputs.prompt
        self.limit = config.limit(len(inputs.prompt))
        self.simulations = 0
        self.finish: str | None = None
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
            if child.children:
                child.mix_priors(self.config.root_mix)
            self.session.commit(self.prefix)
            self.inputs.scorer.commit(self._response(self.prefix))

    async def _search_root(self) -> bool:
        """Simulate until a child is good and visited enough, or maxT is reached (inner loop); False: out of budget."""
        config, kept = self.config, self.root.visits
        longest = self.limit - len(self.inputs.prompt)
        for _ in range(config.new_simulations(self.root.step, longest, kept)):
            if self.out_of_budget():
                return False
            await self._simulate()
            best = most_visited(self.root)
            if best and best.visits > config.min_visits and best.value > config.value_threshold:
                break
        return True

    async def _simulate(self) -> None:
        """Run forward, rollout, evaluation and backward once, from the root; expansion waits for the next passage."""
        path, prefix = await self._select_leaf()
        if self.eager:
            await self._expand(path[-1], prefix)
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

    async def _rollout(self, prefix: Tokens) -> Tokens:
        """Continue a leaf by plain sampling up to the next pause; the tokens are for scoring only."""
        policy, remaining = self.inputs.policy, self.limit - len(prefix)
        if remaining <= 0 or policy.complete(self._response(prefix)):
            return ()
        params = SamplingParams(
            max_tokens=policy.rollout_tokens(remaining),
            stop=policy.rollout_stop,
            seed=request_seed(self.inputs.key, "rollout", prefix),
            purpose="rollout",
        )
        [continuation] = await self.session.generate(prefix, params)
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
            node.pool = await self._draw_candidates(prefix, length)
        self._attach(node, prefix, node.pool)

    async def _add_node(self, node: Node, prefix: Tokens) -> None:
        """Add a child to a node whose children are alike and bad (node addition)."""
        wanted = len(node.children) + 1
        length = len(node.children[0].tokens)
        if length == 1:
            chosen = await self._most_likely(prefix, wanted)
        else:
            node.pool = await self._draw_additions(prefix, length, len(node.pool)) + node.pool
            chosen = node.pool[:wanted]
        self._attach(node, prefix, chosen)

    def _attach(self, node: Node, prefix: Tokens, pool: Sequence[tuple[Tokens, float]]) -> None:
        """Give a node those candidates as children that it has not yet."""
        children = node.add_children(self._with_priors(node, pool))
        if self.observer and children:
            self.observer.added(node, prefix, children)

    async def _most_likely(self, prefix: Tokens, count: int) -> list[tuple[Tokens, float]]:
        """Return the most likely next tokens with their probabilities, by token id."""
        logprobs = await self.session.next_logprobs(prefix, top=count)
        return [((token,), math.exp(logprob)) for token, logprob in sorted(logprobs.items())]

    async def _draw_candidates(self, prefix: Tokens, length: int) -> list[tuple[Tokens, float]]:
        """Return distinct token sets, the greedy one first, with clamped products of token probabilities.

        ``candidates - 1`` are drawn at once; where a larger ``max_draws`` allows, duplicates are drawn anew.
        """
        config, found = self.config, dict[Tokens, float]()
        drawn = config.candidates - 1
        await self._draw(found, prefix, length, config.candidates, "expand", 0, greedy_first=True)
        while len(found) < config.candidates and drawn < config.max_draws:
            missing = min(config.candidates - len(found), config.max_draws - drawn)
            await self._draw(found, prefix, length, missing, "expand", drawn, greedy_first=False)
            drawn += missing
        return _clamped(found)

    async def _draw_additions(self, prefix: Tokens, length: int, occurrence: int) -> list[tuple[Tokens, float]]:
        """Return the greedy token set and a fresh sampled one, or the greedy one alone if they are equal."""
        found: dict[Tokens, float] = {}
        await self._draw(found, prefix, length, 2, "add", occurrence, greedy_first=True)
        return _clamped(found)

    async def _draw(
        self,
        found: dict[Tokens, float],
        prefix: Tokens,
        length: int,
        n: int,
        purpose: Literal["expand", "add"],
        occurrence: int,
        *,
        greedy_first: bool,
    ) -> None:
        """Add n continuations to ``found``, each with the product of its tokens' probabilities; equal ones once."""
        params = SamplingParams(
            max_tokens=length,
            n=n,
            temperature=self.config.candidate_temperature,
            top_k=self.config.top_k,
            greedy_first=greedy_first,
            seed=request_seed(self.inputs.key, purpose, prefix, occurrence),
            purpose=purpose,
        )
        for continuation in await self.session.generate(prefix, params):
            found.setdefault(continuation.tokens, math.exp(sum(continuation.logprobs)))

    def _with_priors(self, node: Node, pool: Sequence[tuple[Tokens, float]]) -> list[tuple[Tokens, float]]:
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


def _clamped(found: Mapping[Tokens, float]) -> list[tuple[Tokens, float]]:
    """Return candidates, the greedy one first, with its prior clamped."""
    return list(zip(found, clamp_greedy(list(found.values())), strict=True))
