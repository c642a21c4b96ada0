"""The plainest engine: no cache, one sequence at a time. It is the oracle of the equality tests and of ``rain bench``.

This is how the published code computes: each candidate of each expansion prefills the whole prefix again, and every
token of a greedy answer is a pass over all that came before.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Collection, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rain.core.engine import Continuation, Engine, Stop, Usage, check_request
from rain.engines.local.kv_cache import KvTree
from rain.engines.local.sampling import Row, read_rows
from rain.engines.local.sequence import STREAMS, Continuing, Question


class ReferenceEngine(Engine):
    """A transformers model without any reuse between requests.

    Args:
        model, tokenizer: loaded; any causal model, with the attention that it came with.
        keep_cache: keep keys and values while one continuation is generated (the published search does, its baseline
            does not).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, keep_cache: bool = True) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.keep_cache = keep_cache and "past_key_values" in inspect.signature(model.forward).parameters
        self.context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.usage = Usage()

    def session(self, name: str) -> ReferenceEngine:
        """Return an engine with counters of its own."""
        return ReferenceEngine(self.model, self.tokenizer, keep_cache=self.keep_cache)

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
        """See ``Engine.generate``: one continuation after the other, each from the start of the prefix."""
        check_request(prefix, self.context, n, max_tokens)
        self.usage.requests += 1
        results = []
        for i in range(n):
            item = Continuing(
                KvTree(),
                list(prefix),
                self.usage,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                stop=stop,
                stream=None if greedy_first and i == 0 else seed * STREAMS + i,
                decode=lambda tokens: str(self.tokenizer.decode(tokens, skip_special_tokens=True)),
            )
            cache = DynamicCache(config=self.model.config) if self.keep_cache else None
            known, done = 0, False
            while not done:
                draw = item.whole_draw(0)
                logits = self._forward(item.tokens[known:], cache)
                known = len(item.tokens) if cache is not None else 0
                [row], drawn = read_rows(logits, [draw] if draw else [], [], item.top)
                done = item.take(row, drawn[0] if drawn else None)
            results.append(item.continuation())
        return results

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Engine.next_logprobs``."""
        check_request(prefix, self.context)
        self.usage.requests += 1
        question = Question(KvTree(), list(prefix), self.usage, top, ids)
        row: Row
        [row], _ = read_rows(self._forward(prefix, None), [], [(0, token) for token in ids], question.top)
        question.take(row, None)
        return question.answer

    @torch.inference_mode()
    def _forward(self, tokens: Sequence[int], cache: DynamicCache | None) -> torch.Tensor:
        """Return the logits behind the last of the tokens, which follow those in the cache: (1, vocabulary)."""
        inputs = torch.tensor([list(tokens)], device=self.model.device)
        self.usage.forward_passes += 1
        self.usage.tokens_computed += inputs.shape[1]
        started = time.perf_counter()
        output = self.model(inputs, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
        logits: torch.Tensor = output.logits[0]
        self.usage.model_seconds += time.perf_counter() - started
        return logits
