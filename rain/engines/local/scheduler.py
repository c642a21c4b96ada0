"""Steps over everything that is pending: plan one packed pass, run it, hand out the results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import torch

from rain.core.engine import Usage
from rain.core.errors import RainError
from rain.engines.local.attention import TreeQueries
from rain.engines.local.kv_cache import ROOT, KvTree
from rain.engines.local.model_runner import PackedModel
from rain.engines.local.sampling import Draw, read_rows
from rain.engines.local.sequence import Pending

SETTLE = 8


class Job:
    """Sequences that are awaited together."""

    def __init__(self, pending: list[Pending]) -> None:
        self.pending = pending
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        shared = min(len(item.tokens) for item in pending)
        self.size = shared + sum(len(item.tokens) - shared + item.room for item in pending)


class Plan:
    """One pass.

    Attributes:
        queries: by identity of the tree.
        wanted: (identity of the tree, slot) of the logits rows -> the sequences that wait for it.
        tokens: query tokens so far.
        payers: how many of them are whose, and how many of those are computed for the first time.
    """

    def __init__(self) -> None:
        self.queries: dict[int, TreeQueries] = {}
        self.wanted: dict[tuple[int, int], list[Pending]] = {}
        self.tokens = 0
        self.payers: list[tuple[Usage, int, int]] = []

    def place(self, pending: Pending, room: int) -> None:
        """Append as many missing tokens of a sequence as there is room for, and ask for its logits if that is all."""
        tree = pending.tree
        queries = self.queries.setdefault(id(tree), TreeQueries(tree))
        missing = pending.tokens[len(pending.chain) :]
        count, distinct = min(len(missing), room), 0
        for token in missing[:count]:
            slot, fresh = tree.append(pending.chain[-1] if pending.chain else ROOT, token)
            pending.chain.append(slot)
            distinct += fresh
        if not missing and pending.chain[-1] not in queries.rows:
            count = 1
        if count:
            queries.add(pending.chain, count)
            self.tokens += count
            self.payers.append((pending.usage, count, distinct))
        if len(pending.chain) == len(pending.tokens):
            self.wanted.setdefault((id(tree), pending.chain[-1]), []).append(pending)

    def rows(self) -> list[int]:
        """Return the row in the pass of each wanted slot (one row at least, a model returns no fewer)."""
        starts, start = {}, 0
        for key, queries in self.queries.items():
            starts[key], start = start, start + len(queries.rows)
        return [starts[key] + self.queries[key].rows[slot] for key, slot in self.wanted] or [0]


class Scheduler:
    """Advances all pending sequences together; those that finish leave at once, new ones join at the next pass.

    Args:
        packed: runs the passes.
        max_batch_tokens: query tokens of one pass, at most.
        cache_tokens: slots of all trees together, about; beyond it the least recently used trees are evicted, and
            recomputed if they are needed again.

    Attributes:
        steps, evictions, model_seconds: counted for ``rain bench``.
    """

    def __init__(self, packed: PackedModel, max_batch_tokens: int, cache_tokens: int) -> None:
        self.packed = packed
        self.max_batch_tokens = self.batch_limit = max_batch_tokens
        self.cache_tokens = cache_tokens
        self.trees: list[KvTree] = []
        self.jobs: list[Job] = []
        self.steps = self.evictions = 0
        self.model_seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    async def run(self, pending: list[Pending]) -> None:
        """Advance these sequences until all are done."""
        job = Job(pending)
        self.jobs.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._loop())
        await job.future

    async def _loop(self) -> None:
        """Step while there are jobs; between steps every search takes its results and asks its next question."""
        while self.jobs:
            for _ in range(SETTLE):
                await asyncio.sleep(0)
            try:
                self.step()
            except Exception as error:  # whatever broke the pass is for those who wait for it
                for job in self.jobs:
                    if not job.future.done():
                        job.future.set_exception(error)
            self.jobs = [job for job in self.jobs if not job.future.done()]

    def step(self) -> None:
        """Run one pass, with fewer tokens if memory runs out, and hand out its results."""
        self.steps += 1
        active = [item for job in self._admitted() for item in job.pending if not item.done]
        self._make_room(active, self.cache_tokens - self.batch_limit)
        while True:
            plan = self._plan(active)
            try:
                if plan.queries:
                    self._run(plan)
                break
            except torch.OutOfMemoryError as error:
                self._undo(plan)
                if self.batch_limit == 1:
                    raise RainError("out of memory with a single token; use a smaller model or --dtype") from error
                self.batch_limit //= 2
                self._make_room(active, 0)
            except BaseException:
                self._undo(plan)
                raise
        self.batch_limit = min(self.max_batch_tokens, self.batch_limit * 2)
        for job in self.jobs:
            if not job.future.done() and all(item.done for item in job.pending):
                job.future.set_result(None)

    def _admitted(self) -> list[Job]:
        """Return the oldest jobs whose tokens fit into the cache budget together; at least one."""
        jobs = [job for job in self.jobs if not job.future.done()]
        total = 0
        for place, job in enumerate(jobs):
            total += job.size
            if place and total > self.cache_tokens:
                return jobs[:place]
        return jobs

    def _make_room(self, active: Sequence[Pending], budget: int) -> None:
        """Evict idle trees, the least recently used first, then what no active sequence stands on."""
        used = sum(map(len, self.trees))
        if used <= budget:
            return
        busy = {id(item.tree) for item in active}
        for tree in sorted((tree for tree in self.trees if id(tree) not in busy and len(tree)), key=lambda t: t.used):
            used -= len(tree)
            tree.keep_only([])
            self.evictions += 1
            if used <= budget:
                return
        for tree in [tree for tree in self.trees if id(tree) in busy]:
            here = [item for item in active if item.tree is tree]
            for item in here:
                item.sync()
            tree.keep_only([item.chain for item in here])
            self.evictions += 1

    def _plan(self, active: Sequence[Pending]) -> Plan:
        """Choose the next tokens of every sequence, the oldest first, up to the limit of a pass."""
        plan = Plan()
        for item in active:
            item.tree.used = self.steps
            if self._from_memory(item):
                continue
            if plan.tokens >= self.batch_limit:
                break
            plan.place(item, self.batch_limit - plan.tokens)
        return plan

    @staticmethod
    def _from_memory(item: Pending) -> bool:
        """Go on as far as distributions that were brought back before allow; return whether the sequence is done."""
        item.sync()
        while not item.done and len(item.chain) == len(item.tokens):
            row = item.tree.tops.get(item.chain[-1])
            if row is None or not item.satisfied_by(row):
                break
            item.done = item.take(row, None)
            item.sync()
        return item.done

    def _run(self, plan: Plan) -> None:
        """Run the pass, bring the wanted rows back and advance the sequences that wait for them."""
        started = time.perf_counter()
        logits = self.packed.forward(list(plan.queries.values()), plan.rows())
        waiting = [(row, item) for row, items in enumerate(plan.wanted.values()) for item in items]
        draws: list[Draw] = []
        drawing: dict[int, int] = {}
        for row, item in waiting:
            draw = item.whole_draw(row)
            if draw:
                drawing[id(item)] = len(draws)
                draws.append(draw)
        lookups = [(row, token) for row, item in waiting for token in item.lookups]
        top = max((item.top for _, item in waiting), default=1)
        rows, drawn = read_rows(logits, draws, lookups, top)
        seconds = time.perf_counter() - started
        self.model_seconds += seconds
        for usage, count, distinct in plan.payers:
            usage.tokens_computed += count
            usage.tokens_distinct += distinct
            usage.model_seconds += seconds * count / plan.tokens
        for usage in {id(usage): usage for usage, *_ in plan.payers}.values():
            usage.forward_passes += 1
        for (key, slot), found in zip(plan.wanted, rows, strict=bool(plan.wanted)):
            tops = plan.queries[key].tree.tops
            found.others.update(tops[slot].others if slot in tops else {})
            tops[slot] = found
        for row, item in waiting:
            item.done = item.take(rows[row], drawn[drawing[id(item)]] if id(item) in drawing else None)

    def _undo(self, plan: Plan) -> None:
        """Forget the slots of a pass that failed; the sequences find their places again."""
        for queries in plan.queries.values():
            queries.tree.truncate(queries.known)
