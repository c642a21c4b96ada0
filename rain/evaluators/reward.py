"""``reward:NAME[,label=LABEL]``: a sequence classification model, such as a reward model, as an evaluator."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.evaluators.base import Evaluator, SearchContext
from rain.evaluators.texts import Batcher, TextScorer
from rain.models.info import longest_input
from rain.text import TokenizerAdapter

LONGEST = 4096
"""Tokens of prompt and text that are read at most; models with less context read less."""


class Scored(NamedTuple):
    """A score in [-1, 1], and what it cost: tokens, seconds."""

    score: float
    tokens: int
    seconds: float


class RewardEvaluator(Evaluator):
    """Scores texts by tanh(x / 2), where x is the model's only logit, or the log-odds of a label.

    A model with a chat template reads prompt and text as a conversation, any other as a pair of texts. Of what is too
    long for it, the end of the conversation is read, or the beginning of the longer text.

    Raises:
        RainError: it is no such model, or the label is missing or unknown.
    """

    def __init__(self, name: str) -> None:
        from rain.models.loading import load_classifier

        self.name = name
        source, _, label = name.partition(",label=")
        self.model, self.tokenizer = load_classifier(source)
        self.adapter = TokenizerAdapter(self.tokenizer)
        names = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
        if (label or len(names) > 1) and label not in names:
            raise RainError(f"reward:{name} needs one of its model's labels: reward:{source},label={'|'.join(names)}")
        self.label = names.index(label) if label else None
        self.limit = min(LONGEST, longest_input(self.model, self.tokenizer))
        self._batcher = Batcher[tuple[str, str], Scored](self._score)

    def search(self, context: SearchContext) -> TextScorer:
        """Return the scorer of one search; texts of several searches share a batch."""

        async def score(text: str) -> float:
            found = await self._batcher((context.question, text))
            scorer.usage.tokens_computed += found.tokens
            scorer.usage.model_seconds += found.seconds
            return found.score

        scorer = TextScorer(context, score, f"reward:{self.name}")
        return scorer

    def _encode(self, question: str, text: str) -> list[int]:
        if self.adapter.can_chat:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
            return list(self.adapter.encode_chat(turns, continues=True))[-self.limit :]
        options = {"truncation": "longest_first", "max_length": self.limit, "split_special_tokens": True}
        return list(self.tokenizer(question, text, **options)["input_ids"])

    def _score(self, texts: list[tuple[str, str]]) -> Sequence[Scored]:
        """Return the scores of (question, text)."""
        import torch

        rows = [self._encode(*each) for each in texts]
        together = len(rows) if self.model.config.pad_token_id is not None else 1
        found = list[Scored]()
        for first in range(0, len(rows), together):
            batch, started = rows[first : first + together], time.perf_counter()
            with torch.inference_mode():
                logits = self.model(**self._padded(batch)).logits.float().cpu()
            seconds = (time.perf_counter() - started) / len(batch)
            found += [Scored(self._value(row), len(ids), seconds) for row, ids in zip(logits, batch, strict=True)]
        return found

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        from torch import ones, tensor
        from torch.nn.utils.rnn import pad_sequence

        pad = self.model.config.pad_token_id or 0
        ids = pad_sequence([tensor(row) for row in rows], batch_first=True, padding_value=pad)
        mask = pad_sequence([ones(len(row), dtype=ids.dtype) for row in rows], batch_first=True)
        return {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}

    def _value(self, logits: Any) -> float:
        """Return the score of a text from the model's logits: (labels,)."""
        logit = float(logits[0])
        if self.label is not None:
            others = [i for i in range(len(logits)) if i != self.label]
            logit = float(logits[self.label] - logits[others].logsumexp(0)) if others else float(logits[self.label])
        if not math.isfinite(logit):
            raise RainError("the reward model's logit is not a finite number; choose another model")
        return math.tanh(logit / 2)
