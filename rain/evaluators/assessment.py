"""Scores of labelled texts compared with their labels: by length and source, calibrated on texts to other prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rain.data.labelled import Labelled
from rain.evaluators.calibration import held_out
from rain.evaluators.labels import LabelScores
from rain.evaluators.metrics import ranking
from rain.stats import Interval, wilson

LENGTHS = (4, 8, 16, 32)
"""Beginnings of each text that are measured besides the whole, as a search meets them (tokens)."""

WHOLE = "whole"


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


class Assessment:
    """Readings compared with labels; every text is calibrated by the texts to other prompts."""

    def __init__(self, readings: Sequence[Reading], texts: Sequence[Labelled]) -> None:
        self.readings, self.texts = readings, texts
        self.evidence, self.good = [each.evidence[WHOLE] for each in readings], [item.good for item in texts]
        self.held_out = held_out(self.evidence, self.good, [item.question for item in texts])
        self.all = range(len(texts))

    def ranking(self, chosen: Iterable[int], length: str = WHOLE) -> dict[str, Any] | None:
        """Return how well some of the texts are told apart by their beginnings; None: they are all of one class."""
        found = [i for i in chosen if length in self.readings[i].evidence]
        values = [self.readings[i].evidence[length] for i in found]
        called = [value > self.held_out[i].offset for value, i in zip(values, found, strict=True)]
        return ranking(values, called, [self.texts[i] for i in found])

    def by_length(self) -> dict[str, dict[str, Any]]:
        """Return the ranking of each length."""
        rows = {name: self.ranking(self.all, name) for name in (*map(str, LENGTHS), WHOLE)}
        return {name: row for name, row in rows.items() if row}

    def by_source(self) -> dict[str, dict[str, Any]]:
        """Return the ranking of the texts of each source."""
        sources = sorted({item.source for item in self.texts} - {""})
        rows = {name: self.ranking(i for i in self.all if self.texts[i].source == name) for name in sources}
        return {name: row for name, row in rows.items() if row}

    def accuracy(self, right: Iterable[bool]) -> tuple[float, Interval]:
        """Return the share of texts that are judged rightly, and its interval."""
        count = sum(right)
        return count / len(self.texts), wilson(count, len(self.texts))

    def order_bias(self) -> float | None:
        """Return by how many nats, on average, the order of two options moves an answer; None without two questions."""
        odds = [each.labels.log_odds for each in self.readings if each.labels]
        biases = [abs(first - second) / 2 for first, second in (pair for pair in odds if len(pair) == 2)]
        return sum(biases) / len(biases) if biases else None

    def label_mass(self) -> float | None:
        """Return the mean probability of all labels together; None where no labels are asked for."""
        masses = [each.labels.mass for each in self.readings if each.labels]
        return sum(masses) / len(self.texts) if masses else None
