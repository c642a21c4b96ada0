"""The transformers engine: any causal model, a tree of cached tokens for each search, one common batch for all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rain.core.engine import Continuation, Engine, Stop, Usage, check_request
from rain.core.types import Tokens
from rain.engines.local.kv_cache import KvTree
from rain.engines.local.scheduler import Scheduler
from rain.engines.local.self_check import open_packed
from rain.engines.local.sequence import STREAMS, Continuing, Pending, Question


class Shared:
    """What the sessions of one model have in common: weights, scheduler and pinned prefixes."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_batch_tokens: int, cache_tokens: int
    ) -> None:
        self.scheduler = Scheduler(open_packed(model), max_batch_tokens, cache_tokens)
        self.tokenizer = tokenizer
        self.context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)
        self.pins: dict[Tokens, asyncio.Task[KvTree]] = {}
        self.usage = Usage()

    def pinned(self, prefix: Sequence[int]) -> KvTree | None:
        """Return the longest computed pin that a prefix goes beyond."""
        found: KvTree | None = None
        for tokens, task in self.pins.items():
            ready = task.done() and not task.cancelled() and task.exception() is None
            if ready and len(tokens) < len(prefix) and tuple(prefix[: len(tokens)]) == tokens:
                if found is None or len(tokens) > len(found):
                    found = task.result()
        return found

    async def compute_pin(self, tokens: Tokens) -> KvTree:
        """Run a prefix through the model, into a tree of its own that is never evicted."""
        tree = KvTree()
        await self.scheduler.run([Question(tree, list(tokens), self.usage, 1, ())])
        return tree


class HfEngine(Engine):
    """A transformers model; ``session`` gives each search its own tree and counters.

    Args:
        model, tokenizer: loaded; the model's attention is replaced by the packed tree attention.
        max_batch_tokens: query tokens of one forward pass, at most.
        cache_tokens: cached tokens of all searches together, about (a token takes 2 x layers x key-value heads x head
            size numbers).

    Raises:
        RainError: the model cannot run on the tree cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch_tokens: int = 1024,
        cache_tokens: int = 120_000,
        shared: Shared | None = None,
    ) -> None:
        self.shared = shared or Shared(model, tokenizer, max_batch_tokens, cache_tokens)
        self.model, self.tokenizer = model, tokenizer
        self.context = self.shared.context
        self.dtype = str(model.dtype).removeprefix("torch.")
        ends = getattr(model.generation_config, "eos_token_id", None)
        self.eos: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
        self.usage = Usage() if shared else self.shared.usage
        self._trees: dict[int, KvTree] = {}

    def session(self, name: str) -> HfEngine:
        """Return a view with its own cache tree and counters; ``close`` it to free the tree."""
        return HfEngine(self.model, self.tokenizer, shared=self.shared)

    async def generate(
        self,
        prefix: Sequence[int],
        *,
        n: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        greedy_first: bool = False,
        stop: Stop = Stop(),  # noqa: B008 - frozen
        seed: int = 0,
    ) -> list[Continuation]:
        """See ``Engine.generate``; continuations share the cache, so an equal beginning is computed once."""
        check_request(prefix, self.context, n, max_tokens)
        tree, tokens = self._locate(prefix)
        streams = [None if greedy_first and i == 0 else seed * STREAMS + i for i in range(n)]
        continuing = [
            Continuing(
                tree,
                list(tokens),
                self.usage,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                stop=stop,
                stream=stream,
                decode=self._decode,
            )
            for stream in streams
        ]
        await self._run(list(continuing))
        return [item.continuation() for item in continuing]

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Engine.next_logprobs``."""
        check_request(prefix, self.context)
        tree, tokens = self._locate(prefix)
        question = Question(tree, tokens, self.usage, top, ids)
        await self._run([question])
        return question.answer

    async def pin(self, prefix: Sequence[int]) -> None:
        """Compute a prefix once for all sessions; concurrent calls wait for the same computation."""
        tokens = tuple(prefix)
        if tokens not in self.shared.pins:
            self.shared.pins[tokens] = asyncio.create_task(self.shared.compute_pin(tokens))
        await self.shared.pins[tokens]

    def commit(self, prefix: Sequence[int]) -> None:
        """Prune the session's tree to what continues ``prefix``."""
        base = self.shared.pinned(prefix)
        tree = self._trees.get(id(base))
        if tree is not None:
            tree.commit(list(prefix[tree.base_length :]))

    async def close(self) -> None:
        """Free the session's trees."""
        gone = {id(tree) for tree in self._trees.values()}
        self.shared.scheduler.trees = [tree for tree in self.shared.scheduler.trees if id(tree) not in gone]
        self._trees.clear()

    def _locate(self, prefix: Sequence[int]) -> tuple[KvTree, list[int]]:
        """Return the tree a prefix belongs to, and its tokens after the tree's base."""
        base = self.shared.pinned(prefix)
        if id(base) not in self._trees:
            self._trees[id(base)] = KvTree(base)
            self.shared.scheduler.trees.append(self._trees[id(base)])
        tree = self._trees[id(base)]
        return tree, list(prefix[tree.base_length :])

    async def _run(self, pending: list[Pending]) -> None:
        self.usage.requests += 1
        pending[0].sync()
        self.usage.tokens_reused += pending[0].tree.base_length + len(pending[0].chain)
        await self.shared.scheduler.run(pending)

    def _decode(self, tokens: list[int]) -> str:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)
