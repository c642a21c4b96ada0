"""Can this model judge its own text? Measured before hours of search are spent (``rain preflight``)."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rain.data.labelled import Labelled, load_labelled
from rain.engines.registry import EngineConfig, open_engine
from rain.evaluators.calibration import fit, held_out
from rain.evaluators.labels import Evaluation, Reading, cut_after_full_stop
from rain.evaluators.templates import load_template
from rain.flags import add_flags
from rain.settings import make_settings
from rain.stats import auc, wilson
from rain.tasks import FOLDERS, find_task
from rain.text import Codec

PAPER = "paper, table 6: 52-98 %, from LLaMA-7B to LLaMA-2-70B"


async def read_all(evaluation: Evaluation, engine: Any, texts: Sequence[Labelled], cut: bool) -> list[Reading]:
    """Ask about every text, a few at a time."""
    await engine.pin(evaluation.pinned)
    gate = asyncio.Semaphore(8)

    async def one(item: Labelled) -> Reading:
        response = evaluation.codec.encode(item.response if item.response[:1].isspace() else " " + item.response)
        if cut:
            response = cut_after_full_stop(response, evaluation.codec)
        async with gate:
            session = engine.session(item.response)
            try:
                return await evaluation.read(session, evaluation.context(item.question), response)
            finally:
                await session.close()

    return list(await asyncio.gather(*(one(item) for item in texts)))


def assess(readings: Sequence[Reading], labels: Sequence[bool]) -> dict[str, Any]:
    """Return the figures of a preflight: hard votes as in the paper, and what a calibration adds, held out."""
    votes = [sum(odds > 0 for odds in reading.log_odds) / len(reading.log_odds) for reading in readings]
    right = sum((vote > 0.5) == label for vote, label in zip(votes, labels, strict=True) if vote != 0.5)
    means = [sum(reading.log_odds) / len(reading.log_odds) for reading in readings]
    calibrated = held_out(means, labels)
    total, abstained = len(labels), sum(vote == 0.5 for vote in votes)
    positive = [m for m, label in zip(means, labels, strict=True) if label]
    negative = [m for m, label in zip(means, labels, strict=True) if not label]
    offset, scale = fit(means, labels)
    first = [abs(r.log_odds[0] - r.log_odds[1]) / 2 for r in readings if len(r.log_odds) == 2]
    return {
        "texts": total,
        "good": sum(labels),
        "accuracy": right / total,
        "accuracy_interval": list(wilson(right, total)),
        "abstentions": abstained,
        "held_out_accuracy": sum(calibrated) / total,
        "held_out_interval": list(wilson(sum(calibrated), total)),
        "auc": auc(positive, negative),
        "order_bias_nats": sum(first) / len(first) if first else None,
        "label_mass": sum(reading.mass for reading in readings) / total,
        "offset": offset,
        "scale": scale,
    }


def verdict(figures: dict[str, Any]) -> str:
    """Say in words whether RAIN can be expected to help this model."""
    hard_low, soft_low = figures["accuracy_interval"][0], figures["held_out_interval"][0]
    if hard_low > 0.6:
        return "The model tells good from bad with the paper's votes: RAIN can be expected to help."
    if soft_low > 0.6:
        return (
            "The paper's votes do not tell good from bad, but calibrated soft votes do: "
            "expect help with --votes soft --calibration FILE only."
        )
    if soft_low > 0.5:
        return "The model is a little better than chance, calibrated: expect little help from RAIN."
    return "The model cannot be told from chance on these texts: RAIN would be guided by noise; do not expect help."


def show(figures: dict[str, Any]) -> str:
    """Return the figures as text."""

    def share(name: str, interval: str) -> str:
        low, high = figures[interval]
        return f"{figures[name]:.1%} ({low:.1%} to {high:.1%})"

    bias = figures["order_bias_nats"]
    lines = [
        f"texts                    {figures['texts']} ({figures['good']} good)",
        f"accuracy, paper's votes  {share('accuracy', 'accuracy_interval')}; abstentions count as wrong",
        f"abstentions              {figures['abstentions']} (the two option orders disagree)",
        f"accuracy, calibrated     {share('held_out_accuracy', 'held_out_interval')}; five-fold, held out",
        f"AUC of the log-odds      {figures['auc']:.3f}",
        f"pull of the option order {'-' if bias is None else f'{bias:.2f} nats'}",
        f"probability on labels    {figures['label_mass']:.1%}",
        f"calibration              offset {figures['offset']:.3f} nats, scale {figures['scale']:.3f} per nat",
        PAPER,
        verdict(figures),
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain preflight``."""
    parser.add_argument("--task", required=True, choices=list(FOLDERS), help="whose template and labelled texts")
    parser.add_argument("--labelled", type=Path, help="texts with fields question, response and label (default: own)")
    parser.add_argument("--templates", default=argparse.SUPPRESS, help="self-evaluation template file")
    parser.add_argument("--write", type=Path, help="write figures and calibration here (JSON), for --calibration")
    add_flags(parser, EngineConfig, {}, "model")


def run(args: argparse.Namespace) -> int:
    """Measure self-evaluation, print the figures and write the calibration."""
    task = find_task(args.task)
    given = {name: value for name, value in vars(args).items() if name not in ("task", "labelled", "write")}
    settings = make_settings(task, given)
    texts = load_labelled(args.labelled or task.path("labelled.jsonl"))
    engine, tokenizer = open_engine(settings.engine)
    template = load_template(settings.template_path())
    evaluation = Evaluation(template, Codec(tokenizer))
    readings = asyncio.run(read_all(evaluation, engine, texts, task.cut_after_full_stop))
    figures = assess(readings, [item.good for item in texts])
    names = {"task": task.name, "model": settings.engine.model, "template": template.path.name}
    print(f"{names['model']} on {args.labelled or 'labelled.jsonl'} with {names['template']}\n{show(figures)}")
    if args.write:
        args.write.write_text(json.dumps({**names, **figures}, indent=2) + "\n", encoding="utf-8")
        print(f"written to {args.write}")
    return 0
