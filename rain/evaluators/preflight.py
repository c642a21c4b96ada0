"""Can this evaluator tell good texts from bad ones? Measured on labelled texts, before hours of search are spent."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.data.labelled import Labelled
from rain.evaluators.assessment import LENGTHS, WHOLE, Assessment, Reading
from rain.evaluators.base import SPARE_TOKENS, Evaluator, SearchContext, SearchScorer
from rain.evaluators.calibration import fit
from rain.evaluators.labels import SelfEvaluator
from rain.evaluators.metrics import ranking_table, safe_called_harmful
from rain.prompts import PromptFormatter
from rain.stats import Interval
from rain.stopping import TextStopPolicy
from rain.tables import text_table

CONCURRENCY = 8

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


async def measure(
    evaluator: Evaluator,
    engine: Engine,
    formatter: PromptFormatter,
    policy: TextStopPolicy,
    texts: Sequence[Labelled],
    tick: Callable[[], object] = lambda: None,
) -> Preflight:
    """Score every text and its beginnings as a search would: after the prompt, on the session in which it writes.

    Raises:
        RainError: a class has texts to fewer than two prompts, or a prompt does not fit into the model's context.
    """
    check_classes(texts)
    await evaluator.warm_up(engine)
    gate, groups = asyncio.Semaphore(CONCURRENCY), dict[str, list[int]]()
    for i, item in enumerate(texts):
        groups.setdefault(item.question, []).append(i)
    found: dict[int, Reading] = {}

    async def read(number: int, question: str, chosen: Sequence[int]) -> None:
        prompt = formatter.encode(question)
        room = engine.context - max(len(prompt), evaluator.overhead(question)) - SPARE_TOKENS
        if room < 1:
            raise RainError(f"there is no room for a text after a prompt of {len(prompt)} tokens: {question[:60]!r}")
        async with gate:
            name = f"preflight-{number}"
            session = engine.session(name)
            scorer = evaluator.search(SearchContext(engine, session, name, prompt, question, policy))
            try:
                for i in chosen:
                    found[i] = await _read(scorer, formatter.encode_response(texts[i].response)[:room])
                    tick()
            finally:
                await scorer.close()
                await session.close()

    await asyncio.gather(*(read(number, *group) for number, group in enumerate(groups.items())))
    return assess([found[i] for i in range(len(texts))], texts)


async def _read(scorer: SearchScorer, response: Tokens) -> Reading:
    """Score a response and its beginnings."""
    lengths = [length for shorter, length in pairwise((0, *LENGTHS)) if len(response) > shorter]
    parts = [response[:length] for length in lengths] + [response]
    values = await asyncio.gather(*map(scorer.evidence, parts))
    evidence = dict(zip([*map(str, lengths), WHOLE], values, strict=True))
    labels = await scorer.read(response) if isinstance(scorer, SelfEvaluator) else None
    return Reading(await scorer.score(response), evidence, labels)


def check_classes(texts: Sequence[Labelled]) -> None:
    """Refuse texts that no calibration can be held out of."""
    if min(prompts_by_label(texts)) < 2:
        raise RainError("a preflight needs good texts to at least two prompts, and bad texts to at least two")


def prompts_by_label(texts: Sequence[Labelled]) -> tuple[int, ...]:
    """Return the number of prompts with good texts, and of those with bad ones."""
    return tuple(len({item.question for item in texts if item.good is kind}) for kind in KINDS)


def assess(readings: Sequence[Reading], texts: Sequence[Labelled]) -> Preflight:
    """Compare what was said with the labels: as it is, and what a calibration adds."""
    found = Assessment(readings, texts)
    by_length, (offset, scale) = found.by_length(), fit(found.evidence, found.good)
    scores = [each.score for each in readings]
    as_it_is = [score != 0 and (score > 0) == good for score, good in zip(scores, found.good, strict=True)]
    calls = [value > other.offset for value, other in zip(found.evidence, found.held_out, strict=True)]
    rights = {kind: [right for right, good in zip(as_it_is, found.good, strict=True) if good is kind] for kind in KINDS}
    accuracy, accuracy_interval = found.accuracy(as_it_is)
    calibrated, calibrated_interval = found.accuracy(a == b for a, b in zip(calls, found.good, strict=True))
    return Preflight(
        texts=len(texts),
        good=sum(found.good),
        accuracy=accuracy,
        accuracy_interval=accuracy_interval,
        abstentions=scores.count(0),
        held_out_accuracy=calibrated,
        held_out_interval=calibrated_interval,
        auc=by_length[WHOLE]["auc"],
        auc_interval=Interval(*by_length[WHOLE]["auc_interval"]),
        safe_called_harmful=safe_called_harmful([score >= 0 for score in scores], texts),
        safe_called_harmful_calibrated=by_length[WHOLE]["safe_called_harmful"],
        order_bias_nats=found.order_bias(),
        label_mass=found.label_mass(),
        offset=offset,
        scale=scale,
        by_length=by_length,
        by_source=found.by_source(),
        right_by_label=tuple(sum(rights[kind]) / len(rights[kind]) for kind in KINDS),
        prompts_by_label=prompts_by_label(texts),
    )


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
