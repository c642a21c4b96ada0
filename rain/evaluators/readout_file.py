"""Learnt read-outs: what is in their files, and what one says of a text; see ``rain.evaluators.readout``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rain.core.digest import digest
from rain.core.engine import ReadOut
from rain.core.errors import RainError, UnclearFault
from rain.prompts import PromptFile
from rain.results.inputs import same_weights

CHAT = "chat template"
FORMAT = 1


@dataclass(frozen=True)
class RequestReadOut:
    """Tells harmful requests from others by the last token of the prompt, before an answer begins.

    Attributes:
        layer: see ``ReadOut``.
        weights: of that token's hidden state, (hidden size,), calibrated.
        bias: of the calibrated log-odds that the request is harmful.
    """

    layer: int
    weights: tuple[float, ...]
    bias: float


class Reading(NamedTuple):
    """What a read-out says of a text.

    Attributes:
        score: in [-1, 1].
        logit: of the text alone.
        request: probability that the request is harmful; None where the read-out does not look at it.
    """

    score: float
    logit: float
    request: float | None = None


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
        request: what reads the request; None: every request is taken for harmful.
        fingerprint: of the model's files (``rain.results.inputs``); empty: unknown.
    """

    name: str
    model: str
    prompt_format: str
    layer: int
    weights: tuple[float, ...]
    bias: float
    measured: dict[str, Any] = field(default_factory=dict)
    prompt_file: PromptFile | None = None
    request: RequestReadOut | None = None
    fingerprint: str = ""

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
            raise RainError(f"there is no read-out {name!r}{whose}: give a file of rain learn")
        try:
            data = json.loads((path if path.is_file() else shipped).read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            if "prompt_file" in data:
                data["prompt_file"] = PromptFile(*data["prompt_file"])
            if "request" in data:
                data["request"] = RequestReadOut(**_with_tuple(data["request"]))
            return cls(**_with_tuple(data))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RainError(f"{name} is not a read-out file ({error}); make one with rain learn") from error

    def as_json(self) -> bytes:
        """Return the file's content."""
        content = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return json.dumps({"format": FORMAT, **content}).encode() + b"\n"

    @property
    def read_outs(self) -> list[ReadOut]:
        """What the engine has to compute: of the text and, where the read-out looks at it, of the request."""
        return [ReadOut(part.layer, np.array(part.weights)) for part in (self, self.request) if part]

    def reading(self, text: Sequence[float], prompt_end: Sequence[float], language: bool = True) -> Reading:
        """Return what it says of a text.

        Args:
            text: the mean of each of ``read_outs`` over the text.
            prompt_end: each of them at the last token of the prompt; not used without ``request``.
            language: whether the text is language; if not, a harmless request does not excuse it.

        Raises:
            UnclearFault: a number is not finite.
        """
        logit = self.bias + text[0]
        request = None
        if self.request:
            request = _sigmoid(self.request.bias + prompt_end[1]) if language else 1.0
        score = math.tanh(logit / 2) if request is None else 1 - 2 * request * _sigmoid(-logit)
        if not (math.isfinite(logit) and math.isfinite(score)):
            raise UnclearFault("a read-out is not a finite number; the model's numbers cannot be used")
        return Reading(score, logit, request)

    def calibrated(self, offset: float, scale: float, measured: dict[str, Any]) -> ReadOutFile:
        """Return the read-out whose score is tanh(scale (logit / 2 - offset)), and what it was measured on.

        What it says of requests stays as it is.
        """
        weights, bias = tuple(scale * w for w in self.weights), scale * (self.bias - 2 * offset)
        return replace(self, weights=weights, bias=bias, measured={**self.measured, "calibrated": measured})

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the read-out in records; what was measured has no part in them."""
        return hashlib.sha256(replace(self, measured={}).as_json()).hexdigest()[:16]

    def check(self, model: str, prompt_format: str) -> None:
        """Refuse a model or prompt format that it was not learnt with; see ``check_weights``, too.

        Raises:
            RainError: the message says which.
        """
        for what, own, used in (("model", self.model, model), ("prompt format", self.prompt_format, prompt_format)):
            if own != used:
                raise RainError(f"the read-out {self.name} was learnt with the {what} {own!r}, not {used!r}")

    def check_weights(self, fingerprint: str) -> None:
        """Refuse a model with other weights than it was learnt with, where both are known.

        Raises:
            RainError: the weights differ.
        """
        if self.fingerprint and fingerprint and not same_weights(self.fingerprint, fingerprint):
            raise RainError(f"the read-out {self.name} was learnt with other weights of {self.model}; learn it anew")


def _with_tuple(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "weights": tuple(map(float, data["weights"]))}


def learnt_from(measured: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the data files that a read-out or a calibration was learnt from; shipped files say ``learnt_on``."""
    found: Sequence[Mapping[str, Any]] = measured.get("data", measured.get("learnt_on", ()))
    return found


def prompt_format(prompt_file: Any) -> str:
    """Return the name of a prompt format: the chat template, or the digest of a prompt file's texts."""
    return CHAT if prompt_file is None else digest(prompt_file)


def _sigmoid(value: float) -> float:
    return (1 + math.tanh(value / 2)) / 2
