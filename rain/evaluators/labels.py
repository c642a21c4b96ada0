"""Self-evaluation: the model scores its own text (section 3 of the paper), by votes on label tokens."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.core.fields import setting
from rain.core.types import Tokens
from rain.evaluators.templates import Template
from rain.text import Codec, TextRules, common_start


@dataclass(frozen=True)
class EvaluationConfig:
    """How label probabilities become a score; everything but the defaults changes decisions and is recorded.

    Attributes:
        votes: "hard": each asking votes 1 or 0, the score is 2 x mean - 1 (paper); "soft": tanh of the calibrated
            log-odds.
        offset: log-odds at which the model is undecided, in nats; learnt by ``rain preflight``.
        scale: soft votes only: slope of the score per nat.
        target: name of the goal, for the records.
        invert: whether the goal is the template's negative label.
    """

    votes: str = setting("hard", "hard: votes of 0 and 1 (paper); soft: tanh of the calibrated log-odds")
    offset: float = setting(0.0, "log-odds (nats) at which the evaluation is undecided; from a calibration")
    scale: float = setting(1.0, "soft votes: slope of the score per nat of log-odds; from a calibration")
    target: str = setting("", "what to steer towards, where the task offers a choice (imdb: positive or negative)")
    invert: bool = setting(False, "steer away from the template's positive labels; --target sets it")

    def __post_init__(self) -> None:
        if self.votes not in ("hard", "soft"):
            raise RainError(f"votes is {self.votes!r}; it must be hard or soft")
        if not (math.isfinite(self.offset) and math.isfinite(self.scale) and self.scale > 0):
            raise RainError(f"offset {self.offset} must be finite and scale {self.scale} above 0")

    def score(self, log_odds: Sequence[float]) -> float:
        """Return the score of a text from the log-odds of each asking, in [-1, 1]."""
        if self.votes == "hard":
            score = 2 * sum(value > self.offset for value in log_odds) / len(log_odds) - 1
        else:
            score = math.tanh(self.scale * (sum(log_odds) / len(log_odds) - self.offset))
        return -score if self.invert else score


def read_calibration(path: Path) -> tuple[float, float]:
    """Read (offset, scale) from a file that ``rain preflight`` wrote."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return float(data["offset"]), float(data["scale"])
    except OSError as error:
        raise RainError(f"cannot read the calibration {path}: {error.strerror}") from error
    except KeyError as error:
        raise RainError(f"the calibration {path} lacks the field {error}") from error
    except (TypeError, ValueError) as error:
        raise RainError(f"the calibration {path} is no JSON object with the numbers offset and scale") from error


class Asking(NamedTuple):
    """One way of asking, in token ids: what follows the response, and the labels that may come next."""

    tail: Tokens
    positive: Tokens
    negative: Tokens


class Reading(NamedTuple):
    """What the model said of one text.

    Attributes:
        log_odds: for each asking, log p(best positive label) - log p(best negative label), in nats.
        mass: mean probability of all labels together, in [0, 1].
    """

    log_odds: tuple[float, ...]
    mass: float


class Evaluation:
    """A template resolved for one tokenizer.

    Args:
        template: see ``rain.evaluators.templates``.
        codec: of the model that evaluates.

    Raises:
        RainError: a label is no single token that tells it from the others, in its place in the template.
    """

    def __init__(self, template: Template, codec: Codec) -> None:
        self.template, self.codec = template, codec
        self.askings = [self._resolve(*ask) for ask in template.asks()]
        head = [codec.encode(template.head + text) for text in ("", "a", "7", "\n")]
        self.pinned = codec.bos + common_start(head)

    def _resolve(self, ask: str, positive: Sequence[str], negative: Sequence[str]) -> Asking:
        """Find the label tokens in context, where " A", "A" and "(A" are different tokens."""
        anchor = self.template.middle[-1:] or "."
        whole = {label: self.codec.encode_after(anchor + "x", ask + label) for label in (*positive, *negative)}
        plain = self.codec.encode_after(anchor + "x", ask)
        tail = common_start([*whole.values(), plain]) if len(whole) > 1 else plain
        labels: dict[str, int] = {}
        for label, ids in whole.items():
            if len(ids) != len(tail) + 1:
                raise RainError(
                    f"{self.template.path}: the label {label!r} is no single token for this model "
                    f"(it is {len(ids) - len(tail)} tokens behind {ask[-20:]!r}); choose another label"
                )
            labels[label] = ids[-1]
        good, bad = {labels[label] for label in positive}, {labels[label] for label in negative}
        if good & bad:
            raise RainError(f"{self.template.path}: positive and negative labels begin with the same token")
        return Asking(tail, tuple(sorted(good)), tuple(sorted(bad)))

    def context(self, question: str) -> Tokens:
        """Return the ids in front of the response."""
        return self.codec.bos + self.codec.encode(self.template.head + question + self.template.middle)

    async def read(self, engine: Engine, context: Tokens, response: Tokens) -> Reading:
        """Ask in every way at once."""
        answers = await asyncio.gather(
            *(
                engine.next_logprobs(context + response + ask.tail, ids=(*ask.positive, *ask.negative))
                for ask in self.askings
            )
        )
        odds, mass = [], 0.0
        for ask, answer in zip(self.askings, answers, strict=True):
            odds.append(max(answer[i] for i in ask.positive) - max(answer[i] for i in ask.negative))
            mass += sum(math.exp(answer[i]) for i in (*ask.positive, *ask.negative)) / len(self.askings)
        return Reading(tuple(odds), mass)


class SelfEvaluator:
    """Scores the texts of one search (``rain.core.problem.Scorer``); the same text is asked about once.

    Args:
        evaluation, config: what is asked, and how the answer becomes a score.
        engine: the search's own session.
        rules: tells which part of a response is its text.
        question: the prompt, in the words of the user.
        cut: reduce a text before it is judged (TruthfulQA: to its last full stop).

    Attributes:
        evaluations: how many texts were asked about.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        config: EvaluationConfig,
        engine: Engine,
        rules: TextRules,
        question: str,
        cut: bool = False,
    ) -> None:
        self.evaluation, self.config, self.engine, self.rules, self.cut = evaluation, config, engine, rules, cut
        self.context = evaluation.context(question)
        self.evaluations = 0
        self._memo: dict[str, asyncio.Task[float]] = {}

    async def score(self, response: Tokens) -> float:
        """Return the score of a response, in [-1, 1]."""
        text = self.rules.visible(response)
        if self.cut:
            text = cut_after_full_stop(text, self.rules.codec)
        key = self.rules.codec.decode(text)
        if key not in self._memo:
            self.evaluations += 1
            self._memo[key] = asyncio.ensure_future(self._ask(text))
        return await self._memo[key]

    async def _ask(self, text: Tokens) -> float:
        reading = await self.evaluation.read(self.engine, self.context, text)
        return self.config.score(reading.log_odds)

    def commit(self, response: Tokens) -> None:
        """Let the engine drop texts that begin otherwise."""
        self.engine.commit(self.context + self.rules.visible(response))


def cut_after_full_stop(text: Tokens, codec: Codec) -> Tokens:
    """Drop the tokens behind the last one that holds a full stop; a text without one stays."""
    for length in range(len(text), 0, -1):
        if "." in codec.decode(text[length - 1 : length]):
            return text[:length]
    return text
