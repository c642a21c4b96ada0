"""``readout:NAME|FILE``: a straight line through the model's own hidden states, in the context in which it writes.

With h_i the output of decoder layer l at the i-th token of a response (before the final norm)::

    logit(text) = bias + mean_i w . h_i          score(text) = tanh(logit / 2) = 2 p(good) - 1

Both are linear, so a search needs one number a token, which the engine keeps with keys and values: an evaluation
computes at most the last token of a text, and no evaluation prompt. Related: arXiv 2310.06824, 2406.11717 (probing),
2104.05218 and 2310.17022 (value heads for decoding).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from rain.core.concurrency import start_shared
from rain.core.digest import digest
from rain.core.engine import Engine, ReadOut
from rain.core.errors import RainError, UnclearFault
from rain.core.types import Tokens, Vector
from rain.evaluators.base import Evaluator, SearchContext, SearchScorer, Seen, give_up_others
from rain.prompts import PromptFile

CHAT = "chat template"
FORMAT = 1


@dataclass(frozen=True)
class ReadOutFile:
    """A learnt read-out; it belongs to one model, one prompt format and one layer.

    Attributes:
        name: what it tells apart, such as "harmless".
        model: name of the model, for messages.
        prompt_format: "chat template", or the digest of a prompt file.
        layer: see ``ReadOut``.
        weights: of the mean hidden state, (hidden size,), calibrated.
        bias: of the calibrated logit.
        measured: held-out figures and the data that it was learnt on, for people.
        prompt_file: the texts of the prompt file, so that others can ask in the same format; None: the chat template.
    """

    name: str
    model: str
    prompt_format: str
    layer: int
    weights: tuple[float, ...]
    bias: float
    measured: dict[str, Any] = field(default_factory=dict)
    prompt_file: PromptFile | None = None

    @classmethod
    def load(cls, name: str, model: str = "") -> ReadOutFile:
        """Read a file, or one that comes with RAIN: ``NAME`` for an embedded model, or ``NAME_MODEL``.

        Raises:
            RainError: there is no such read-out, or the file is not one; the message names it.
        """
        path, whole = Path(name), f"{name}_{model}" if model else name
        shipped = resources.files("rain.evaluators") / "readouts" / f"{whole}.json"
        if not path.is_file() and not shipped.is_file():
            whose = f" for {model}" if model else ""
            raise RainError(f"there is no read-out {name!r}{whose}: give a file of rain preflight --learn")
        try:
            data = json.loads((path if path.is_file() else shipped).read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            prompt = {"prompt_file": PromptFile(*data["prompt_file"])} if "prompt_file" in data else {}
            return cls(**{**data, **prompt, "weights": tuple(map(float, data["weights"]))})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RainError(f"{name} is not a read-out file ({error}); make one with rain preflight --learn") from error

    def as_json(self) -> bytes:
        """Return the file's content."""
        content = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps({"format": FORMAT, **content}).encode() + b"\n"

    @property
    def vector(self) -> Vector:
        """The weights as an array."""
        return np.array(self.weights)

    def calibrated(self, offset: float, scale: float, measured: dict[str, Any]) -> ReadOutFile:
        """Return the read-out whose score is tanh(scale (logit / 2 - offset)), and what it was measured on."""
        weights, bias = tuple(scale * w for w in self.weights), scale * (self.bias - 2 * offset)
        return replace(self, weights=weights, bias=bias, measured={**self.measured, "calibrated": measured})

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the read-out in records."""
        return hashlib.sha256(self.as_json()).hexdigest()[:16]

    def check(self, model: str, prompt_format: str) -> None:
        """Refuse another model or prompt format than it was learnt with.

        Raises:
            RainError: the message says which.
        """
        for what, own, used in (("model", self.model, model), ("prompt format", self.prompt_format, prompt_format)):
            if own != used:
                raise RainError(f"the read-out {self.name} was learnt with the {what} {own!r}, not {used!r}")


def learnt_from(measured: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the data files that a read-out or a calibration was learnt from; shipped files say ``learnt_on``."""
    found: Sequence[Mapping[str, Any]] = measured.get("data", measured.get("learnt_on", ()))
    return found


def prompt_format(prompt_file: Any) -> str:
    """Return the name of a prompt format: the chat template, or the digest of a prompt file's texts."""
    return CHAT if prompt_file is None else digest(prompt_file)


class ReadOutEvaluator(Evaluator):
    """Scores texts with one or more read-outs; the smallest score counts.

    Args:
        files: for this model and prompt format.
        invert: steer to the other side.
    """

    def __init__(self, files: list[ReadOutFile], invert: bool = False) -> None:
        self.files, self.invert = files, invert
        self.biases = np.array([file.bias for file in files])

    async def warm_up(self, engine: Engine) -> None:
        """Have the engine compute the read-outs of every token."""
        engine.set_read_outs([ReadOut(file.layer, file.vector) for file in self.files])

    def search(self, context: SearchContext) -> ReadOutScorer:
        """Return the scorer of one search, on the session in which it writes."""
        return ReadOutScorer(self, context)

    def logits(self, means: Vector) -> list[float]:
        """Return the logit of each read-out from its mean over a text."""
        logits: list[float] = ((1 - 2 * self.invert) * (self.biases + means)).tolist()
        if not all(map(math.isfinite, logits)):
            raise UnclearFault("a read-out is not a finite number; the model's numbers cannot be used")
        return logits

    def score(self, means: Vector) -> float:
        """Return the score of a text from its mean read-outs, in [-1, 1]."""
        return _score(self.logits(means))


class ReadOutScorer(SearchScorer):
    """Scores the texts of one search; the same text is read once, an empty one is undecided."""

    def __init__(self, evaluator: ReadOutEvaluator, context: SearchContext) -> None:
        super().__init__()
        self.evaluator, self.session, self.prompt = evaluator, context.session, context.prompt
        self.policy = context.policy
        self._logits: dict[Tokens, asyncio.Task[list[float]]] = {}

    async def score(self, response: Tokens) -> float:
        """Return the score of a response, in [-1, 1]."""
        text = self.policy.visible(response)
        if text not in self._logits:
            self.evaluations += 1
            self._logits[text] = start_shared(self._read(text))
        return _score(await asyncio.shield(self._logits[text]))  # others may wait for it, too

    async def _read(self, text: Tokens) -> list[float]:
        if not text:
            return [0.0] * len(self.evaluator.files)
        return self.evaluator.logits(await self.session.read_out(self.prompt + text, len(self.prompt), self.usage))

    def commit(self, response: Tokens) -> None:
        """Give up texts that begin otherwise: their tokens are dropped, and would all be computed again."""
        give_up_others(self._logits, self.policy.visible(response))

    def asks(self) -> list[Seen]:
        """Return the name of each read-out."""
        return [{"by": f"readout:{file.name}"} for file in self.evaluator.files]

    def seen(self, response: Tokens) -> list[Seen]:
        """Return the logits of a response that has been scored."""
        text = self.policy.visible(response)
        read = self.policy.adapter.decode(text)
        return [{"score": _score([logit]), "read": read, "logit": logit} for logit in self._logits[text].result()]

    async def close(self) -> None:
        """Give up texts that nobody waits for any more."""
        for task in self._logits.values():
            task.cancel()


def _score(logits: list[float]) -> float:
    return math.tanh(min(logits) / 2)
