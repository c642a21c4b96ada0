"""The few things that a judge needs of a local model: complete a text, answer a chat, weigh labels, classify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from rain.core.errors import RainError

Messages = Sequence[Mapping[str, Any]]


class LocalModel(Protocol):
    """What HFJudge asks of a model; all replies are deterministic."""

    def complete(self, text: str, max_tokens: int) -> str:
        """Return the greedy continuation of a text, at most max_tokens tokens."""

    def chat(self, messages: Messages, max_tokens: int) -> str:
        """Return the greedy reply to a conversation through the model's chat template."""

    def weigh(self, text: str, labels: Sequence[str]) -> list[float]:
        """Return the log-probability, at most 0, of each label as the text's next token."""

    def classify(self, text: str) -> dict[str, float]:
        """Return the probability, in [0, 1], of each label of a text classifier."""


class CausalModel:
    """A language model as LocalModel, loaded by rain.models.loading.load_model."""

    def __init__(self, name: str) -> None:
        from rain.models.loading import load_model

        self._name = name
        self._model, self._tokenizer = load_model(name)
        self._model.eval()

    def complete(self, text: str, max_tokens: int) -> str:
        """See LocalModel; the tokenizer's own first token (BOS) is put in front."""
        return self._generate(self._tokenizer(self._defused(text), return_tensors="pt")["input_ids"], max_tokens)

    def chat(self, messages: Messages, max_tokens: int) -> str:
        """See LocalModel; RainError where the model has no chat template, or one that loses the messages."""
        rendered = self._render([{**one, "content": self._defused(one["content"]).strip()} for one in messages])
        ids = self._tokenizer(rendered, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return self._generate(ids, max_tokens)

    def weigh(self, text: str, labels: Sequence[str]) -> list[float]:
        """See LocalModel; RainError where two labels begin with the same token."""
        ids = self._tokenizer(self._defused(text), return_tensors="pt")["input_ids"].to(self._model.device)
        first = [self._tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in labels]
        if len(set(first)) < len(first):
            raise RainError(f"judge model {self._name} cannot tell labels apart by first token: {list(labels)}")
        with torch.inference_mode():
            logits = self._model(ids, logits_to_keep=1).logits[0, -1]
        chances = torch.log_softmax(logits.float(), dim=-1)
        return [float(chances[token]) for token in first]

    def classify(self, text: str) -> dict[str, float]:
        """Refuse: this is no classifier."""
        raise RainError(f"judge model {self._name} is not a text classifier")

    def _defused(self, text: str) -> str:
        """Return a text with the names of special tokens broken by a space: what is judged must not end its turn."""
        added = (str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special)
        for token in {*self._tokenizer.all_special_tokens, *added}:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _render(self, messages: Messages) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            raise RainError(f"judge model {self._name} has no chat template; choose a chat model")
        parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
        for form in (messages, parts):
            try:
                text = str(self._tokenizer.apply_chat_template(form, tokenize=False, add_generation_prompt=True))
            except (ValueError, TypeError, KeyError, _template_error()):
                continue
            if all(one["content"] in text for one in messages):
                return text
        raise RainError(f"the chat template of judge model {self._name} does not show the judged texts")

    def _generate(self, ids: torch.Tensor, max_tokens: int) -> str:
        ids = ids.to(self._model.device)
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _template_error() -> type[Exception]:
    from jinja2 import TemplateError

    return TemplateError


class ClassifierModel:
    """A sequence classifier as LocalModel; long texts are cut at the model's own limit."""

    def __init__(self, source: str | Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._model = AutoModelForSequenceClassification.from_pretrained(source).eval()
        if torch.cuda.is_available():
            self._model.to("cuda")

    def classify(self, text: str) -> dict[str, float]:
        """See LocalModel; the names are those of the model's id2label."""
        limit = getattr(self._model.config, "max_position_embeddings", 512)
        inputs = self._tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            chances = self._model(**inputs).logits[0].float().softmax(dim=-1)
        names = self._model.config.id2label
        return {str(names[i]): float(chance) for i, chance in enumerate(chances)}

    def complete(self, text: str, max_tokens: int) -> str:
        """Refuse: a classifier writes no text."""
        raise RainError("a text classifier cannot write a reply")

    def chat(self, messages: Messages, max_tokens: int) -> str:
        """Refuse: a classifier writes no text."""
        raise RainError("a text classifier cannot write a reply")

    def weigh(self, text: str, labels: Sequence[str]) -> list[float]:
        """Refuse: a classifier has no next token."""
        raise RainError("a text classifier has no next token")


def is_classifier(source: str | Path) -> bool:
    """Say whether a folder or hub name holds a sequence classifier, by its config; False where that cannot be read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError):
        return False
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
