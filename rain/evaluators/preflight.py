"""Can this model judge its own text? Measured on labelled texts, before hours of search are spent."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.data.labelled import Labelled
from rain.evaluators.calibration import fit, held_out
from rain.evaluators.labels import LabelEvaluator, LabelScores, cut_after_full_stop
from rain.stats import Interval, auc, wilson
from rain.tables import text_table

CONCURRENCY = 8
VERDICTS = {
    "help": "The model tells good from bad with the paper's votes: RAIN can be expected to help.",
    "help with soft votes": "The paper's votes do not tell good from bad, but calibrated soft votes do: expect help "
    "only with --votes soft --calibration FILE.",
    "little help": "The model is only slightly better than chance, even calibrated: expect little help from RAIN.",
    "no help": "The model cannot be told from chance on these texts: RAIN would be guided by noise; expect no help.",
}


@dataclass(frozen=True)
class Preflight:
    """What self-evaluation says of labelled texts: counts, shares in [0, 1] with 95 % intervals, nats."""

    texts: int
    good: int
    accuracy: float  # of hard votes, as in the paper; abstentions count as wrong
    accuracy_interval: Interval
    abstentions: int  # texts for which the two orders of the options disagree
    held_out_accuracy: float  # of the calibrated log-odds; learnt and measured on different texts
    held_out_interval: Interval
    auc: float  # of the log-odds
    order_bias_nats: float | None  # mean pull of the first option; None where there is one question only
    label_mass: float  # mean probability of all labels together
    offset: float  # the calibration, for EvaluationConfig (nats) ...
    scale: float  # ... (per nat)

    @property
    def expectation(self) -> str:
        """Whether RAIN can be expected to help this model, one of VERDICTS, by the lower ends of the intervals."""
        if self.accuracy_interval[0] > 0.6:
            return "help"
        calibrated = self.held_out_interval[0]
        return "help with soft votes" if calibrated > 0.6 else "little help" if calibrated > 0.5 else "no help"

    @property
    def verdict(self) -> str:
        """The expectation as a sentence."""
        return VERDICTS[self.expectation]

    def __str__(self) -> str:
        bias = self.order_bias_nats
        rows = [
            ("texts", f"{self.texts} ({self.good} good)"),
            ("accuracy, paper's votes", f"{share(self.accuracy, self.accuracy_interval)}; abstentions count as wrong"),
            ("abstentions", "-" if bias is None else f"{self.abstentions} (the two option orders disagree)"),
            ("accuracy, calibrated", f"{share(self.held_out_accuracy, self.held_out_interval)}; five-fold, held out"),
            ("AUC of the log-odds", f"{self.auc:.3f}"),
            ("position bias (nats)", "-" if bias is None else f"{bias:.2f}"),
            ("probability on labels", f"{self.label_mass:.1%}"),
            ("calibration", f"offset {self.offset:.3f} nats, scale {self.scale:.3f} per nat"),
        ]
        return f"{text_table(rows, '<')}\n{self.verdict}"


def share(value: float, interval: Interval) -> str:
    """Return a share with its interval in per cent."""
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


async def measure(evaluator: LabelEvaluator, engine: Engine, texts: Sequence[Labelled]) -> Preflight:
    """Ask the model about every text; RainError unless there are at least two of each class."""
    labels = [item.good for item in texts]
    if min(sum(labels), len(labels) - sum(labels)) < 2:
        raise RainError("a preflight needs at least two texts of each class, good and bad")
    await evaluator.warm_up(engine)
    gate, prompt = asyncio.Semaphore(CONCURRENCY), evaluator.prompt

    async def read(number: int, item: Labelled) -> LabelScores:
        response = prompt.adapter.encode(item.response if item.response[:1].isspace() else f" {item.response}")
        if evaluator.cut:
            response = cut_after_full_stop(response, prompt.adapter)
        async with gate:
            session = engine.session(f"preflight-{number}")
            try:
                return await prompt.read(session, prompt.context(item.question), response)
            finally:
                await session.close()

    return assess(await asyncio.gather(*(read(i, item) for i, item in enumerate(texts))), labels)


def assess(scores: Sequence[LabelScores], labels: Sequence[bool]) -> Preflight:
    """Compare what the model said with the labels: hard votes as in the paper, and what a calibration adds."""
    total = len(labels)
    votes = [sum(odds > 0 for odds in each.log_odds) / len(each.log_odds) for each in scores]
    right = sum((vote > 0.5) == label for vote, label in zip(votes, labels, strict=True) if vote != 0.5)
    means = [sum(each.log_odds) / len(each.log_odds) for each in scores]
    calibrated, (offset, scale) = sum(held_out(means, labels)), fit(means, labels)
    by_label = {label: [m for m, each in zip(means, labels, strict=True) if each is label] for label in (True, False)}
    biases = [abs(each.log_odds[0] - each.log_odds[1]) / 2 for each in scores if len(each.log_odds) == 2]
    return Preflight(
        texts=total,
        good=sum(labels),
        accuracy=right / total,
        accuracy_interval=wilson(right, total),
        abstentions=votes.count(0.5),
        held_out_accuracy=calibrated / total,
        held_out_interval=wilson(calibrated, total),
        auc=auc(by_label[True], by_label[False]),
        order_bias_nats=sum(biases) / len(biases) if biases else None,
        label_mass=sum(each.mass for each in scores) / total,
        offset=offset,
        scale=scale,
    )


def read_preflight(path: Path) -> tuple[dict[str, Any], Preflight]:
    """Read a file of ``rain preflight``: what was measured (task, model, template, labelled), and the result."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        values = {field.name: data.pop(field.name) for field in dataclasses.fields(Preflight)}
        intervals = {name: Interval(*values[name]) for name in ("accuracy_interval", "held_out_interval")}
        return data, Preflight(**{**values, **intervals})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RainError(f"{path} was not written by rain preflight ({error!r})") from error
