"""hf:MODEL where the model is a sequence classifier of sentiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rain.core.errors import RainError
from rain.judges.base import Judge, Query, Verdict


class ClassifierJudge(Judge):
    """Decides sentiment by the more likely of a positive and a negative label; a neutral one is ignored.

    Args:
        name: of the model.
        source: its folder or hub name; it is loaded for the first query.
    """

    def __init__(self, name: str, source: str | Path) -> None:
        super().__init__(f"hf:{name}")
        self._source = source
        self._loaded: tuple[Any, Any] | None = None

    def version(self, criterion: str) -> str | None:
        """Return the version for "sentiment", None for anything else."""
        return "classifier-1" if criterion == "sentiment" else None

    async def decide(self, query: Query) -> Verdict:
        """Classify the review; RainError if the labels do not name a positive and a negative one."""
        self.count_call()
        chances = self.classify(query.question + query.response)
        good = [name for name in chances if name.casefold().startswith("pos") or name == "LABEL_1"]
        bad = [name for name in chances if name.casefold().startswith("neg") or name == "LABEL_0"]
        if len(good) != 1 or len(bad) != 1:
            raise RainError(f"the classifier's labels {list(chances)} do not name one positive and one negative label")
        reply = " ".join(f"{name}={chances[name]:.4f}" for name in good + bad)
        return Verdict(chances[good[0]] > chances[bad[0]], reply)

    def classify(self, text: str) -> dict[str, float]:
        """Return the probability of each label; a long text is cut at the model's own limit."""
        import torch

        model, tokenizer = self._loaded = self._loaded or _load(self._source)
        limit = getattr(model.config, "max_position_embeddings", 512)
        inputs = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            chances = model(**inputs).logits[0].float().softmax(dim=-1)
        return {str(model.config.id2label[i]): float(chance) for i, chance in enumerate(chances)}

    async def close(self) -> None:
        """Release the model."""
        self._loaded = None


def _load(source: str | Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), AutoTokenizer.from_pretrained(source)


def is_classifier(source: str | Path) -> bool:
    """Tell whether a folder or hub name is a sequence classifier, by its config; False if that cannot be read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError):
        return False
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
