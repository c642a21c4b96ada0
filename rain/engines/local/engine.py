"""The transformers engine: any causal model, a tree of cached tokens for each session, one common batch for all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from rain.core.engine import Continuation, Engine, EngineStats, ReadOut, SamplingParams, Session, Usage
from rain.core.errors import RainError
from rain.core.types import Tokens, Vector
from rain.engines.local import sequence
from rain.engines.local.kv_cache import KvTree
from rain.engines.local.memory import measured_cache
from rain.engines.local.scheduler import Scheduler
from rain.engines.local.self_check import restore_model, verified_model
from rain.engines.local.sequence import GenerationSequence, LogprobsSequence
from rain.models.info import check_read_out, context_length, decoder, dtype_name, end_ids


class HfEngine(Engine):
    """A transformers model.

    Args:
        model, tokenizer: loaded; during a pass, the model's attention is the packed tree attention.
        max_batch_tokens: query tokens of one forward pass, at most.
        cache_tokens: approximate number of cached tokens of all sessions together (a token takes 2 x layers x
            key-value heads x head size numbers); 0: as many as the free memory allows, see ``measured_cache``.

    Raises:
        RainError: the model cannot run on the tree cache.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, max_batch_tokens: int = 1024, cache_tokens: int = 0
    ) -> None:
        self.model, self.tokenizer, self.decode = model, tokenizer, decoder(tokenizer)
        self.context = context_length(model)
        self.eos = end_ids(model.generation_config, tokenizer)
        self.dtype = dtype_name(model)
        self.vocabulary = model.get_input_embeddings().weight.shape[0]
        runner = verified_model(model)
        try:
            cache_tokens = cache_tokens or measured_cache(runner, min(max_batch_tokens, self.context))
        except BaseException:
            restore_model(runner)
            raise
        self.scheduler = Scheduler(runner, max_batch_tokens, cache_tokens)
        self._prefixes: dict[Tokens, asyncio.Task[KvTree]] = {}

    def session(self, name: str) -> HfSession:
        """See ``Engine.session``."""
        return HfSession(self)

    async def cache_prefix(self, prefix: Sequence[int]) -> None:
        """Compute a prefix once; concurrent calls wait for the same computation. It is never evicted."""
        tokens = tuple(prefix)
        self.check_request(tokens)
        task = self._prefixes.get(tokens)
        if task is None or (task.done() and not _succeeded(task)):
            task = self._prefixes[tokens] = asyncio.create_task(self._compute(tokens))
        await asyncio.shield(task)  # who is cancelled must not take it from the others

    async def _compute(self, tokens: Tokens) -> KvTree:
        tree = KvTree(self.scheduler.runner.pool)  # not one of the scheduler's trees: those may be evicted
        await self.scheduler.run(LogprobsSequence(tree, tokens, Usage(), 1))
        self.scheduler.pinned_tokens += len(tree)
        return tree

    def cached_prefix(self, prefix: Sequence[int]) -> KvTree | None:
        """Return the longest cached prefix that a request goes beyond."""
        found = [
            task.result()
            for tokens, task in self._prefixes.items()
            if _succeeded(task) and len(tokens) < len(prefix) and tuple(prefix[: len(tokens)]) == tokens
        ]
        return max(found, key=len, default=None)

    def cached_tokens(self, prefix: Sequence[int]) -> int:
        """See ``Engine.cached_tokens``."""
        tree = self.cached_prefix(prefix)
        return len(tree) if tree else 0

    def set_read_outs(self, read_outs: Sequence[ReadOut]) -> None:
        """See ``Engine.set_read_outs``: one number a token is kept with its keys and values."""
        self.scheduler.runner.set_read_outs(read_outs)

    def stats(self) -> EngineStats:
        """See ``Engine.stats``."""
        return self.scheduler.stats

    async def close(self) -> None:
        """Drop all cached tokens and leave the model as it was."""
        for task in self._prefixes.values():
            task.cancel()
        self._prefixes.clear()
        self.scheduler.pinned_tokens = 0
        self.scheduler.trees.clear()
        self.scheduler.runner.pool.limit = 0  # the memory is free for another model's cache
        restore_model(self.scheduler.runner)


def _succeeded(task: asyncio.Task[KvTree]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


class HfSession(Session):
    """One search's tree of cached tokens; more than one where its requests go beyond different cached prefixes."""

    def __init__(self, engine: HfEngine) -> None:
        self.engine = engine
        self.usage = Usage()
        self.trees: dict[KvTree | None, KvTree] = {}

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        """See ``Session.generate``; continuations share the tree, so an equal beginning is computed once."""
        self.engine.check_request(prefix, params.max_tokens)
        tree, numbers = self._tree(prefix), range(params.first, params.first + params.n)
        drawn = [GenerationSequence(tree, prefix, self.usage, params, i, self.engine.decode) for i in numbers]
        await self._run(*drawn)
        return [continuing.continuation() for continuing in drawn]

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Session.next_logprobs``."""
        self.engine.check_request(prefix, ids=ids)
        question = LogprobsSequence(self._tree(prefix), prefix, self.usage, top, ids)
        await self._run(question)
        return question.logprobs

    async def read_out(self, prefix: Sequence[int], start: int, usage: Usage | None = None) -> Vector:
        """See ``Session.read_out``: mostly the last token alone has to be computed for it."""
        check_read_out(self.engine.scheduler.runner.read_outs, prefix, start)
        while True:  # once more if memory ran out and the tree was evicted in the meantime
            tree = self._tree(prefix)
            slots = tree.match_prefix(prefix)
            if len(slots) == len(prefix):
                break
            self.engine.check_request(prefix)
            await self._run(LogprobsSequence(tree, prefix, usage or self.usage, count=1))
        nodes = {**tree.base.nodes, **tree.nodes} if tree.base else tree.nodes
        found = [nodes[slot].reading for slot in slots[start:]]
        if not all(map(len, found)):
            raise RainError("tokens that were computed before Engine.set_read_outs cannot be read")
        mean: Vector = np.mean(found, axis=0)
        return mean

    def commit(self, prefix: Sequence[int]) -> None:
        """Prune the tree to what continues ``prefix``."""
        tree = self.trees.get(self.engine.cached_prefix(prefix))
        if tree is not None:
            tree.prune_to(prefix)

    async def close(self) -> None:
        """Free the tree."""
        mine = set(self.trees.values())
        self.engine.scheduler.trees = [tree for tree in self.engine.scheduler.trees if tree not in mine]
        self.trees.clear()

    def _tree(self, prefix: Sequence[int]) -> KvTree:
        """Return the tree that a prefix belongs to."""
        base = self.engine.cached_prefix(prefix)
        if base not in self.trees:
            self.trees[base] = KvTree(self.engine.scheduler.runner.pool, base)
            self.engine.scheduler.trees.append(self.trees[base])
        return self.trees[base]

    async def _run(self, *sequences: sequence.Sequence) -> None:
        first = sequences[0]
        first.sync()
        first.usage.requests += 1
        first.usage.tokens_reused += len(first.slots)
        await self.engine.scheduler.run(*sequences)
