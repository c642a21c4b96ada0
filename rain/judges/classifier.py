"""hf:MODEL where the model is a sequence classifier of sentiment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rain.core.errors import RainError
from rain.judges.base import Judge, JudgeConfig, Query, Verdict
from rain.models.info import longest_input


class ClassifierJudge(Judge):
    """Decides sentiment by the more likely of a positive and a negative label; a neutral one is ignored.

    Args:
        name: of the model.
        config: how it is asked.
        source: its folder or hub name; it is loaded for the first query.
    """

    versions = {"sentiment": "classifier-1"}

    def __init__(self, name: str, config: JudgeConfig, source: str | Path) -> None:
        super().__init__(f"hf:{name}")
        self.max_calls, self.model = config.max_calls, name
        self._source = source
        self._pipeline: Any = None

    async def decide(self, query: Query) -> Verdict:
        """Classify the review, cut at the model's own limit; RainError if the labels do not name the sentiments."""
        from transformers import pipeline

        self.count_call()
        plain = {"top_k": None, "trust_remote_code": False}
        self._pipeline = self._pipeline or pipeline("text-classification", str(self._source), **plain)
        limit = longest_input(self._pipeline.model, self._pipeline.tokenizer)
        options = {"truncation": True, "max_length": limit, "function_to_apply": "softmax"}
        [scores] = self._pipeline([query.question + query.response], **options)
        chances = {score["label"]: score["score"] for score in scores}
        if not all(map(math.isfinite, chances.values())):
            raise RainError(f"judge {self.name} computes what is infinite or not a number; check its files")
        unnamed = {"LABEL_0": "negative", "LABEL_1": "positive"} if len(chances) == 2 else {}
        good, bad = (
            [name for name in chances if unnamed.get(name, name.casefold()).startswith(beginning)]
            for beginning in ("pos", "neg")
        )
        if len(good) != 1 or len(bad) != 1:
            raise RainError(f"the classifier's labels {list(chances)} do not name one positive and one negative label")
        reply = " ".join(f"{name}={chances[name]:.4f}" for name in good + bad)
        return Verdict(chances[good[0]] > chances[bad[0]], reply)

    async def close(self) -> None:
        """Release the model."""
        self._pipeline = None


def is_classifier(source: str | Path) -> bool:
    """Tell whether a folder or hub name is a sequence classifier, by its config; False if that cannot be read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError):
        return False
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
