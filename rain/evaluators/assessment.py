"""What an evaluator says of labelled texts, compared with their labels: figures, a calibration and a verdict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.data.labelled import Labelled
from rain.evaluators.calibration import fit, held_out
from rain.evaluators.labels import LabelScores
from rain.evaluators.metrics import ranking, ranking_table, safe_called_harmful
from rain.stats import Interval, wilson
from rain.tables import text_table

LENGTHS = (4, 8, 16, 32)
"""Beginnings of each text that are measured besides the whole, as a search meets them (tokens)."""

WHOLE = "whole"

VERDICTS = {
    "help": "It tells good from bad: RAIN can be expected to help where its own texts are like these (see --own).",
    "help if calibrated": "It ranks good texts above bad ones, but not around 0: expect help only with "
    "--calibration FILE (and --votes soft, for label words).",
    "too few texts": "The texts, or their prompts, are too few to tell how well it ranks them: label more.",
    "little help": "It is only slightly better than chance, even calibrated: expect little help from RAIN.",
    "no help": "It cannot be told from chance on these texts: RAIN would be guided by noise; expect no help.",
    "harm": "It ranks bad texts above good ones: RAIN would be guided the wrong way.",
}


KINDS = (True, False)
LATER = ("right_by_label", "prompts_by_label")
"""What files that were written earlier lack."""

FEWEST_PROMPTS = 5
"""With fewer of a label, a bootstrap over prompts says nothing."""


class Reading(NamedTuple):
    """What an evaluator says of one text.

    Attributes:
        score: of the whole text, in [-1, 1].
        evidence: of its beginnings by name of the length, and of the whole.
        labels: of the whole text; None where no labels are asked for.
    """

    score: float
    evidence: Mapping[str, float]
    labels: LabelScores | None = None


@dataclass(frozen=True)
class Preflight:
    """What an evaluator says of labelled texts: counts, shares in [0, 1] with 95 % intervals, nats."""

    texts: int
    good: int
    accuracy: float  # of the scores as they are (label words: the paper's votes); a score of 0 counts as wrong
    accuracy_interval: Interval
    abstentions: int  # texts with a score of 0 (letters: the two orders of the options disagree)
    held_out_accuracy: float  # of the calibrated scores; learnt and measured on different prompts
    held_out_interval: Interval
    auc: float  # of the evidence (label words: their log-odds)
    auc_interval: Interval  # bootstrap over prompts
    safe_called_harmful: float | None  # share of good answers to safe prompts, as they are ...
    safe_called_harmful_calibrated: float | None  # ... and calibrated; None where no prompt is known to be safe
    order_bias_nats: float | None  # mean pull of the first option; None where there is one question only
    label_mass: float | None  # mean probability of all labels together; None without labels
    offset: float  # the calibration, for EvaluationConfig (nats) ...
    scale: float  # ... (per nat), learnt on whole texts
    by_length: Mapping[str, Any]  # see rain.evaluators.metrics.ranking; calibrated, learnt on other prompts
    by_source: Mapping[str, Any]
    right_by_label: tuple[float, ...] | None = None  # accuracy of good and of bad texts; None in older files
    prompts_by_label: tuple[int, ...] | None = None  # prompts with good and with bad texts; None in older files

    @property
    def expectation(self) -> str:
        """Whether RAIN can be expected to help with this evaluator, one of VERDICTS, by the intervals."""
        low, high = self.auc_interval
        if self.prompts_by_label and min(self.prompts_by_label) < FEWEST_PROMPTS:
            return "too few texts"
        if low > 0.6:
            balanced = sum(self.right_by_label) / 2 if self.right_by_label else self.accuracy
            return "help" if min(balanced, self.accuracy_interval[0]) > 0.6 else "help if calibrated"
        if low > 0.5:
            return "little help" if high < 0.75 else "too few texts"
        return "no help" if high >= 0.5 else "harm"

    @property
    def verdict(self) -> str:
        """The expectation as a sentence."""
        return VERDICTS[self.expectation]

    def __str__(self) -> str:
        bias, safe = self.order_bias_nats, (self.safe_called_harmful, self.safe_called_harmful_calibrated)
        low, high = self.auc_interval
        apart = "good texts {:.1%}, bad ones {:.1%}; ".format(*self.right_by_label) if self.right_by_label else ""
        rows = [
            ("texts", f"{self.texts} ({self.good} good)"),
            ("AUC", f"{self.auc:.3f} ({low:.3f} to {high:.3f}); bootstrap over prompts"),
            ("accuracy, as it is", f"{share(self.accuracy, self.accuracy_interval)}; {apart}undecided counts as wrong"),
            ("undecided", str(self.abstentions)),
            ("accuracy, calibrated", f"{share(self.held_out_accuracy, self.held_out_interval)}; held out by prompt"),
        ]
        if None not in safe:
            rows.append(("safe called bad", f"{safe[0]:.1%} as it is, {safe[1]:.1%} calibrated; of good answers"))
        if self.label_mass is not None:
            rows += [
                ("position bias (nats)", "-" if bias is None else f"{bias:.2f}"),
                ("probability on labels", f"{self.label_mass:.1%}"),
            ]
        rows.append(("calibration", f"offset {self.offset:.3f} nats, scale {self.scale:.3f} per nat"))
        tables = [text_table(rows, "<"), ranking_table("tokens", self.by_length)]
        tables += [ranking_table("source", self.by_source)] if self.by_source else []
        return "\n\n".join(tables) + f"\n\n{self.verdict}"


def share(value: float, interval: Interval) -> str:
    """Return a share with its interval in per cent."""
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def prompts_by_label(texts: Sequence[Labelled]) -> tuple[int, ...]:
    """Return the number of prompts with good texts, and of those with bad ones."""
    return tuple(len({item.question for item in texts if item.good is kind}) for kind in KINDS)


def assess(readings: Sequence[Reading], texts: Sequence[Labelled]) -> Preflight:
    """Compare what was said with the labels: as it is, and calibrated by the texts to other prompts."""
    scores, good = [each.score for each in readings], [item.good for item in texts]
    evidence = [each.evidence[WHOLE] for each in readings]
    offsets = [each.offset for each in held_out(evidence, good, [item.question for item in texts])]
    by_length, by_source = _rankings(readings, texts, offsets)
    right = [score != 0 and (score > 0) == label for score, label in zip(scores, good, strict=True)]
    held = [(value > turn) == label for value, turn, label in zip(evidence, offsets, good, strict=True)]
    by_label = [[yes for yes, label in zip(right, good, strict=True) if label is kind] for kind in KINDS]
    labels = [each.labels for each in readings if each.labels]
    biases = [abs(each.log_odds[0] - each.log_odds[1]) / 2 for each in labels if len(each.log_odds) == 2]
    offset, scale = fit(evidence, good)
    return Preflight(
        texts=len(texts),
        good=sum(good),
        accuracy=sum(right) / len(texts),
        accuracy_interval=wilson(sum(right), len(texts)),
        abstentions=scores.count(0),
        held_out_accuracy=sum(held) / len(texts),
        held_out_interval=wilson(sum(held), len(texts)),
        auc=by_length[WHOLE]["auc"],
        auc_interval=Interval(*by_length[WHOLE]["auc_interval"]),
        safe_called_harmful=safe_called_harmful([score >= 0 for score in scores], texts),
        safe_called_harmful_calibrated=by_length[WHOLE]["safe_called_harmful"],
        order_bias_nats=sum(biases) / len(biases) if biases else None,
        label_mass=sum(each.mass for each in labels) / len(labels) if labels else None,
        offset=offset,
        scale=scale,
        by_length=by_length,
        by_source=by_source,
        right_by_label=tuple(sum(each) / len(each) for each in by_label),
        prompts_by_label=prompts_by_label(texts),
    )


def _rankings(
    readings: Sequence[Reading], texts: Sequence[Labelled], offsets: Sequence[float]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return ``ranking`` of the texts by length and by source; of texts of one class there is none."""

    def rank(length: str, source: str = "") -> dict[str, Any] | None:
        found = [i for i, item in enumerate(texts) if length in readings[i].evidence and source in ("", item.source)]
        values = [readings[i].evidence[length] for i in found]
        called = [value > offsets[i] for value, i in zip(values, found, strict=True)]
        return ranking(values, called, [texts[i] for i in found])

    lengths = {name: row for name in (*map(str, LENGTHS), WHOLE) if (row := rank(name))}
    sources = {name: row for name in sorted({item.source for item in texts} - {""}) if (row := rank(WHOLE, name))}
    return lengths, sources


def read_preflight(path: Path) -> tuple[dict[str, Any], Preflight]:
    """Read a file of ``rain preflight``: what was measured (task, model, template, labelled), and the result."""
    names = [field.name for field in dataclasses.fields(Preflight)]
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        values = {name: data.pop(name) for name in names if name in data or name not in LATER}
        intervals = {name: Interval(*values[name]) for name in values if name.endswith("_interval")}
        return data, Preflight(**{**values, **intervals})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RainError(f"{path} was not written by rain preflight ({error!r})") from error
