"""Steps over everything that is pending: plan one packed pass, run it, hand out the results."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import numpy as np

from rain.core.engine import EngineStats
from rain.core.errors import UnclearFault, is_out_of_memory
from rain.engines.local.batch import Batch
from rain.engines.local.kv_cache import KvTree
from rain.engines.local.model_runner import ModelRunner
from rain.engines.local.sampling import NextTokenDistribution, read_rows
from rain.engines.local.sequence import Request, Sequence
from rain.terminal import say

EVENT_LOOP_YIELDS = 12
"""Turns of the event loop between two passes. A result wakes its search through nested gathers, a turn each, and the
search then makes its next requests; a pass that started earlier would go out half full. The longest chain has ten
(labels among several evaluators, while computing ahead), and a turn costs microseconds."""

KEPT = 0.8
"""Share of the cache that stays when memory runs out."""

LEAST_PASSES = 4
"""Full passes whose tokens the cache may hold even then; it was the pass that was too large, if that is too much."""


class Scheduler:
    """Advances all pending sequences together; those that finish leave at once, new ones join at the next pass.

    Args:
        runner: runs the passes.
        max_batch_tokens: query tokens of one pass, at most.
        cache_tokens: approximate number of slots of all trees together; beyond it the least recently used trees are
            evicted, and recomputed if they are needed again. It becomes less after memory ran out.

    Attributes:
        batch_limit: query tokens of the next pass, at most: less than ``max_batch_tokens`` after memory ran out.
        trees: of all sessions.
        pinned_tokens: slots of cached prefixes, which are never evicted.
    """

    def __init__(self, runner: ModelRunner, max_batch_tokens: int, cache_tokens: int) -> None:
        self.runner = runner
        self.max_batch_tokens = self.batch_limit = max_batch_tokens
        self.cache_tokens = runner.pool.limit = cache_tokens
        self.trees: list[KvTree] = []
        self.requests: list[Request] = []
        self._warned = False
        self.pinned_tokens = self._steps = self._passes = self._evictions = 0
        self._model_seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def stats(self) -> EngineStats:
        """Totals over all sessions."""
        return EngineStats(self._passes, self._model_seconds, self._evictions)

    async def run(self, *sequences: Sequence) -> None:
        """Advance these sequences until all are done."""
        request = Request(sequences)
        self.requests.append(request)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._loop())
        await request.future

    async def _loop(self) -> None:
        """Step while there are requests; between steps every search takes its results and makes its next ones."""
        while self.requests:
            for _ in range(EVENT_LOOP_YIELDS):
                await asyncio.sleep(0)
            admitted = self._admitted()
            try:
                self.step(admitted)
            except Exception as error:  # whatever broke the pass is for those who took part
                for request in admitted:
                    request.fail(error)
            self.requests = [request for request in self.requests if not request.future.done()]

    def step(self, admitted: list[Request]) -> None:
        """Run one pass for these requests and hand out its results.

        If memory runs out, a fifth of the cache is evicted (from then on it holds no more) and the pass halved, again
        until it has one token; then the oldest request is tried without the caches of all others, and fails if it
        cannot be computed even so.
        """
        self._steps += 1
        active, alone = _unfinished(admitted), False
        # A pass adds at most batch_limit slots, so that the cache stays within its budget after it.
        self._make_room(active, self.cache_tokens - self.batch_limit)
        budget = self.runner.pool.used
        while not self._try_batch(active):
            budget = int(KEPT * budget)
            self._learn(budget)
            if self.batch_limit > 1:
                self.batch_limit //= 2
            elif not alone:
                admitted, alone, budget = admitted[:1], True, 0
                active = _unfinished(admitted)
            else:
                admitted[0].fail(UnclearFault("out of memory with a single token; use a smaller model or --dtype"))
                break
            self._make_room(active, budget)
            self.runner.pool.shrink()
        self.batch_limit = min(self.max_batch_tokens, self.batch_limit * 2)
        for request in self.requests:
            request.settle()

    def _learn(self, budget: int) -> None:
        """Hold no more tokens than this from now on, though at least some passes' worth: memory has run out."""
        if not self._warned:
            kept = "rain: out of memory: some cached tokens are dropped, and fewer kept from now on (--cache-tokens)"
            say(kept, sys.stderr)
        self._warned = True
        budget = max(budget, LEAST_PASSES * self.max_batch_tokens)
        self.cache_tokens = self.runner.pool.limit = min(self.cache_tokens, budget)

    def _try_batch(self, active: list[Sequence]) -> bool:
        """Plan and run one pass; return False if memory ran out."""
        batch = self._plan(active)
        try:
            if batch.spans:
                self._run(batch)
            return True
        except BaseException as error:
            batch.undo()
            if not is_out_of_memory(error):
                raise
            return False

    def _admitted(self) -> list[Request]:
        """Return the oldest requests whose tokens fit into the cache budget together; at least one."""
        requests = [request for request in self.requests if not request.future.done()]
        total = 0
        for place, request in enumerate(requests):
            total += request.size
            if place and total > self.cache_tokens - self.pinned_tokens:
                return requests[:place]
        return requests

    def _make_room(self, active: list[Sequence], budget: int) -> None:
        """Evict idle trees, the least recently used first, then whatever no active sequence needs."""
        used = self.runner.pool.used
        if used <= budget:
            return
        busy = {item.tree for item in active}
        idle = (tree for tree in self.trees if tree not in busy and len(tree))
        for tree in sorted(idle, key=lambda tree: tree.last_used_step):
            used -= len(tree)
            tree.evict_except([])
            self._evictions += 1
            if used <= budget:
                return
        for tree in [tree for tree in self.trees if tree in busy]:
            here = [item for item in active if item.tree is tree]
            for item in here:
                item.sync()
            before = len(tree)
            tree.evict_except([item.slots for item in here])
            self._evictions += len(tree) < before

    def _plan(self, active: list[Sequence]) -> Batch:
        """Choose the next tokens of every sequence, the oldest first, up to the limit of a pass.

        None of several gets more than half of it, so that the others continue while a long prompt is computed.
        """
        batch, share = Batch(), self.batch_limit if len(active) == 1 else max(1, self.batch_limit // 2)
        for item in active:
            item.tree.last_used_step = self._steps
            self._advance_from_cache(item)
            if item.done:
                continue
            if len(batch.slots) >= self.batch_limit:
                break
            batch.add(item, min(share, self.batch_limit - len(batch.slots)))
        return batch

    @staticmethod
    def _advance_from_cache(item: Sequence) -> None:
        """Advance with cached distributions as far as possible."""
        item.sync()
        while not item.done and len(item.slots) == len(item.tokens):
            found = item.tree.nodes[item.slots[-1]].distribution
            if found is None or not item.can_reuse(found):
                return
            item.take(found, None)
            item.sync()

    def _run(self, batch: Batch) -> None:
        """Run the pass, bring the needed rows back and advance the sequences that wait for them."""
        started = time.perf_counter()
        output = self.runner.forward(batch)
        waiting = [(row, item) for row, items in enumerate(batch.waiting.values()) for item in items]
        lookups = [(row, token) for row, item in waiting for token in item.lookups]
        top = max((item.top for _, item in waiting), default=1)
        draws = [item.whole_draw(row) for row, item in waiting]
        read = partial(read_rows, draws=draws, lookups=lookups, top=top)
        rows, drawn, (finite, readings) = read(output.logits, beside=(output.finite, output.readings))
        if not finite:
            batch.spoilt = True
            del output  # its logits need not be in memory twice
            output = self.runner.forward(batch, each_alone=True)
            rows, drawn, [readings] = read(output.logits, beside=[output.readings])
        self._bill(batch, time.perf_counter() - started)
        self._remember(batch, rows)
        if self.runner.read_outs:
            nodes = (span.tree.nodes[slot] for span in output.layout.spans for slot in span.chain[-len(span.tokens) :])
            for node, reading in zip(nodes, readings.astype(np.float32), strict=True):
                node.reading = reading
        for (row, item), token in zip(waiting, drawn, strict=True):
            item.take(rows[row], token)

    def _bill(self, batch: Batch, seconds: float) -> None:
        """Count a pass for the sessions that took part, the time by their query tokens."""
        self._passes += 1
        self._model_seconds += seconds
        for usage, count, distinct in batch.usage_shares:
            usage.tokens_computed += count
            usage.tokens_distinct += distinct
            usage.model_seconds += seconds * count / len(batch.slots)
        for usage in {id(usage): usage for usage, *_ in batch.usage_shares}.values():
            usage.forward_passes += 1

    @staticmethod
    def _remember(batch: Batch, rows: list[NextTokenDistribution]) -> None:
        """Keep the distributions, with what was looked up of them earlier."""
        for (slot, items), found in zip(batch.waiting.items(), rows, strict=False):  # one too many if none is needed
            node = items[0].tree.nodes[slot]
            if node.distribution:
                found.extra_logits.update(node.distribution.extra_logits)
            node.distribution = found


def _unfinished(requests: list[Request]) -> list[Sequence]:
    return [sequence for request in requests for sequence in request.sequences if not sequence.done]
