"""fluency:MODEL, a number instead of a verdict: nats per token of each answer under another model than the writer."""

from __future__ import annotations

import math
from typing import Any

from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.judges.base import Judge, JudgeConfig, NoReply, Query, Verdict
from rain.judges.queries import FLUENCY
from rain.text import TokenizerAdapter


class FluencyJudge(Judge):
    """Measures the mean negative log-probability of an answer's tokens after its question; lower is more fluent.

    Args:
        name: of the model, as for --modelname; it is loaded for the first query, on a CPU in float32.
        config: how it is asked.
    """

    versions = {FLUENCY: "fluency-1"}
    note = "nats per token of the answer, given its question; lower is more fluent, and repetition lowers it too"

    def __init__(self, name: str, config: JudgeConfig) -> None:
        super().__init__(f"fluency:{name}")
        self.max_calls, self.model = config.max_calls, name
        self._loaded: Any = None

    async def decide(self, query: Query) -> Verdict:
        """Measure one answer; null if it is empty."""
        if not query.response.strip():
            return Verdict(None, "no answer")
        self.count_call()
        if self._loaded is None:
            from rain.models.dtypes import judge_dtype
            from rain.models.loading import load_model

            model, tokenizer = load_model(self.model, dtype=judge_dtype())
            self._loaded = model, TokenizerAdapter(tokenizer)
        model, adapter = self._loaded
        prompt = adapter.bos + adapter.encode(f"{query.question}\n\n")
        answer = adapter.encode(query.response.strip())
        from rain.models.info import context_length

        if len(prompt) + len(answer) > (longest := context_length(model)):
            raise NoReply(f"{len(prompt) + len(answer)} tokens do not fit into the context of {longest}", refused=True)
        nats = nats_per_token(model, prompt, answer)
        if not math.isfinite(nats):
            raise RainError(f"judge {self.name} computes what is infinite or not a number; check its files")
        return Verdict(nats, f"tokens={len(answer)}")

    async def close(self) -> None:
        """Release the model."""
        self._loaded = None


def nats_per_token(model: Any, prompt: Tokens, answer: Tokens) -> float:
    """Return the mean of -log p of the answer's tokens, each given all before it (nats, at least 0); one plain pass."""
    import torch

    with torch.inference_mode():
        inputs = torch.tensor([[*prompt, *answer]], device=model.device)
        logits = model(inputs, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
        return float(torch.nn.functional.cross_entropy(logits, inputs[0, len(prompt) :]))
