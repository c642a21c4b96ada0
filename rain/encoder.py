"""Sentence embeddings (all-MiniLM-L6-v2 in the paper), batched over everything that asks at the same time."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from rain.core.errors import UnclearFault, is_out_of_memory
from rain.core.types import Vector
from rain.terminal import say

MAX_TOKENS = 256


class MeanPoolingEncoder:
    """Normalised embeddings of a transformers encoder: the mean over a text's tokens, or its first token.

    Args:
        model: gives ``last_hidden_state``; tokenizer: its own.
        cls: take the first token, for models that were trained so (see ``rain.models.pooling.pools_cls``).
        batch: texts in one pass, at most.
        remembered: embeddings that are kept, about (count).

    A GPU embeds in a thread of its own, while the language model works. On a CPU the two take turns, in the event loop:
    two teams of OpenMP threads on the same cores take longer at once than one after the other. Texts are remembered.

    Source: sentence-transformers/all-MiniLM-L6-v2: mean over tokens, then length 1; at most 256 tokens.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, cls: bool = False, batch: int = 64, remembered: int = 20_000
    ) -> None:
        self.model, self.tokenizer, self.cls, self.batch, self.remembered = model, tokenizer, cls, batch, remembered
        self.seconds = 0.0
        self._known: dict[str, Vector] = {}
        self._queue: list[tuple[list[str], asyncio.Future[dict[str, Vector]]]] = []
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "embedding")
        # For good: an encoder that moves to the CPU later still works next to a language model on a GPU.
        self.takes_turns = bool(next(model.parameters()).device.type == "cpu")

    @classmethod
    def load(cls, name: str) -> MeanPoolingEncoder:
        """Load an encoder: "minilm" (embedded), a hub name or a folder."""
        from rain.models.loading import load_encoder
        from rain.models.pooling import pools_cls

        return cls(*load_encoder(name), cls=pools_cls(name))

    async def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Return one embedding for each text: (hidden size,), float32, length 1."""
        found = {text: self._known[text] for text in texts if text in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            future: asyncio.Future[dict[str, Vector]] = asyncio.get_running_loop().create_future()
            self._queue.append((missing, future))
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._loop())
            found |= await future
        return [found[text] for text in texts]

    async def _loop(self) -> None:
        """Embed what was requested in the meantime, until nothing is left."""
        while self._queue:
            asked, self._queue = self._queue, []
            texts = sorted({text for group, _ in asked for text in group}, key=lambda text: (len(text), text))
            try:
                if self.takes_turns:
                    vectors = self.embed(texts)
                else:
                    vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self.embed, texts)
            except Exception as error:  # handed to everybody who waits for this batch
                for _, future in asked:
                    if not future.done():
                        future.set_exception(error)
                continue
            if len(self._known) > self.remembered:
                self._known.clear()
            fresh = dict(zip(texts, vectors, strict=True))
            self._known |= fresh
            for group, future in asked:
                if not future.done():  # one that was cancelled must not end the loop for the others
                    future.set_result({text: fresh[text] for text in group})

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts now, in batches of similar length; shape (hidden size,) each.

        Where the GPU has no memory left next to the language model, the encoder moves to the CPU for good.

        Raises:
            UnclearFault: a number is infinite or not a number.
        """
        started = time.perf_counter()
        vectors: list[Vector] = []
        for start in range(0, len(texts), self.batch):
            batch = list(texts[start : start + self.batch])
            try:
                found = self._embed(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                found = None  # and not embedded here, where the exception still holds the failed pass
            if found is None:
                say("rain: out of memory: the sentence encoder moves to the CPU", sys.stderr)
                self.model.to("cpu")
                found = self._embed(batch)
            vectors += found
        self.seconds += time.perf_counter() - started
        if not np.isfinite(vectors).all():
            raise UnclearFault("the sentence encoder computes what is not a number; check --encoder and its files")
        return vectors

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> list[Vector]:
        options = {"padding": True, "truncation": True, "max_length": MAX_TOKENS, "return_tensors": "pt"}
        inputs = self.tokenizer(texts, **options).to(next(self.model.parameters()).device)
        hidden = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1)
        first = mask.argmax(1, keepdim=True).expand(-1, 1, hidden.shape[2])  # not 0 where padding is on the left
        pooled = hidden.gather(1, first)[:, 0] if self.cls else (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return list(np.asarray(torch.nn.functional.normalize(pooled, dim=1).cpu()))
