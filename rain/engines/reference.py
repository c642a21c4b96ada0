"""The plainest engine: no cache, one sequence at a time. It is the oracle of the equality tests and of ``rain bench``.

This is how the published code computes: each candidate of each expansion prefills the whole prefix again, and every
token of a greedy answer is a pass over all that came before.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from rain.core.engine import Continuation, Engine, EngineStats, ReadOut, SamplingParams, Session, Usage
from rain.core.types import Tokens, Vector
from rain.engines.local.kv_cache import KvPool, KvTree
from rain.engines.local.sampling import read_rows
from rain.engines.local.self_check import check_tokens, plain_logits
from rain.engines.local.sequence import GenerationSequence, LogprobsSequence
from rain.models.info import (
    check_read_out,
    check_read_outs,
    context_length,
    decoder,
    dtype_name,
    end_ids,
)


class ReferenceEngine(Engine):
    """A transformers model without any reuse between requests.

    Args:
        model, tokenizer: loaded; any causal model, with the attention that it came with.
        keep_cache: keep keys and values while one continuation is generated (the published search does, its baseline
            does not).
        published: compute as the published code does: a search keeps the last logits of every text that it generates
            from (a continuation that comes from there computes its whole prefix again, once it has to), and every
            pass computes the logits of all positions. It changes no answer.

    Raises:
        RainError: the model's numbers are not finite.
    """

    batches = False

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, keep_cache: bool = True, published: bool = False
    ) -> None:
        self.model, self.tokenizer, self.decode = model, tokenizer, decoder(tokenizer)
        self.published = published
        self.keep_cache = keep_cache and "past_key_values" in inspect.signature(model.forward).parameters
        self.context = context_length(model)
        self.eos = end_ids(model.generation_config, tokenizer)
        self.dtype, self.vocabulary = dtype_name(model), model.get_input_embeddings().weight.shape[0]
        plain_logits(model, check_tokens(model))
        self.read_outs: list[ReadOut] = []
        self._total = Usage()

    def session(self, name: str) -> ReferenceSession:
        """See ``Engine.session``."""
        return ReferenceSession(self)

    def stats(self) -> EngineStats:
        """See ``Engine.stats``."""
        return EngineStats(self._total.forward_passes, self._total.model_seconds)

    def set_read_outs(self, read_outs: Sequence[ReadOut]) -> None:
        """See ``Engine.set_read_outs``."""
        check_read_outs(self.model, read_outs)
        self.read_outs = list(read_outs)

    def new_cache(self) -> DynamicCache | None:
        """Return an empty cache for one continuation, None where none is kept."""
        return DynamicCache(config=self.model.config) if self.keep_cache else None

    @torch.inference_mode()
    def hidden_states(self, tokens: Sequence[int], usage: Usage) -> tuple[torch.Tensor, ...]:
        """Return the output of each decoder layer, the embeddings first: (1, tokens, hidden size) each."""
        usage.forward_passes += 1
        usage.tokens_computed += len(tokens)
        inputs = torch.tensor([list(tokens)], device=self.model.device)
        options = {"output_hidden_states": True, "use_cache": False, "logits_to_keep": 1}
        states: tuple[torch.Tensor, ...] = self.model(inputs, **options).hidden_states
        return states

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int], cache: DynamicCache | None, usage: Usage) -> torch.Tensor:
        """Return the logits after the last of the tokens, which follow those in the cache: (1, vocabulary)."""
        inputs = torch.tensor([list(tokens)], device=self.model.device)
        started, kept = time.perf_counter(), 0 if self.published else 1
        output = self.model(inputs, past_key_values=cache, use_cache=cache is not None, logits_to_keep=kept)
        logits: torch.Tensor = output.logits[0, -1:].clone()  # the others are not to stay in memory
        seconds = time.perf_counter() - started
        for counted in (usage, self._total):
            counted.forward_passes += 1
            counted.tokens_computed += inputs.shape[1]
            counted.model_seconds += seconds
        return logits


class ReferenceSession(Session):
    """Nothing is kept between requests but, in the published way, last logits by the tokens before them."""

    def __init__(self, engine: ReferenceEngine) -> None:
        self.engine = engine
        self.usage = Usage()
        self._last_logits: dict[Tokens, torch.Tensor] = {}

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        """See ``Session.generate``: one continuation after the other, each from the start of the prefix."""
        self.engine.check_request(prefix, params.max_tokens)
        self.usage.requests += 1
        return [await self._continue(prefix, params, params.first + i) for i in range(params.n)]

    async def _continue(self, prefix: Sequence[int], params: SamplingParams, index: int) -> Continuation:
        engine = self.engine
        item = GenerationSequence(KvTree(KvPool()), prefix, self.usage, params, index, engine.decode)
        cache, known = engine.new_cache(), 0
        while not item.done:
            logits = self._last_logits.get(tuple(item.tokens))
            if logits is None:
                logits = self._forward(item.tokens, known, cache)
                known = len(item.tokens) if cache is not None else 0
            else:
                cache, known = engine.new_cache(), 0
            [row], [drawn], _ = read_rows(logits, [item.whole_draw(0)], [], item.top)
            item.advance(row, drawn)
            await asyncio.sleep(0)  # a long text must not look like a worker that hangs
        return item.continuation()

    def _forward(self, tokens: Sequence[int], known: int, cache: DynamicCache | None) -> torch.Tensor:
        """Return the logits after the tokens, of which the cache has the first ``known``; keep them if need be."""
        logits = self.engine.forward(tokens[known:], cache, self.usage)
        if self.engine.published:
            logits = self._last_logits[tuple(tokens)] = logits.float().cpu()
        return logits

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Session.next_logprobs``."""
        self.engine.check_request(prefix, ids=ids)
        self.usage.requests += 1
        question = LogprobsSequence(KvTree(KvPool()), prefix, self.usage, top, ids)
        logits = self._last_logits.get(tuple(prefix))
        if logits is None:
            logits = self._forward(prefix, 0, None)
        [row], *_ = read_rows(logits, [], [(0, token) for token in ids], question.top)
        question.advance(row, None)
        return question.logprobs

    async def read_out(self, prefix: Sequence[int], start: int, usage: Usage | None = None) -> Vector:
        """See ``Session.read_out``: one plain pass."""
        check_read_out(self.engine.read_outs, prefix, start)
        self.engine.check_request(prefix)
        states = self.engine.hidden_states(prefix, usage or self.usage)
        found = [states[layer][0, start:].float().mean(0).cpu().numpy() @ w for layer, w in self.engine.read_outs]
        return np.array(found)
