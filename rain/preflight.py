"""``rain preflight``: measures whether a model can judge its own text, and writes a calibration."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from pathlib import Path

from rain.data.labelled import load_labelled
from rain.engines.registry import ModelConfig, PlacementConfig, open_engine
from rain.evaluators.labels import LabelEvaluator, SelfEvalPrompt
from rain.evaluators.preflight import Preflight, measure
from rain.flags import add_flags
from rain.results.files import check_writable, write_atomic
from rain.settings import Settings, make_settings
from rain.tasks import load, names
from rain.text import TokenizerAdapter

PAPER = "paper, table 6: 52-98 %, from LLaMA-7B to LLaMA-2-70B"
OWN_FLAGS = ("command", "task", "labelled", "write")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain preflight``."""
    parser.add_argument("--task", default="hh", choices=names(), help="whose template and texts (default: hh)")
    parser.add_argument("--labelled", type=Path, help="texts with question, response and label (default: the task's)")
    parser.add_argument("--templates", default=argparse.SUPPRESS, help="self-evaluation template file")
    parser.add_argument("--write", type=Path, help="write metrics and calibration here (JSON), for --calibration")
    add_flags(parser, ModelConfig, {}, "model")
    add_flags(parser, PlacementConfig, {}, "placement")


def run(args: argparse.Namespace) -> int:
    """Measure self-evaluation, print the metrics and write the calibration."""
    task = load(args.task)
    given = {name: value for name, value in vars(args).items() if name not in OWN_FLAGS}
    settings = make_settings(task, {**given, "calibration": ""})  # a preset's calibration is what is measured here
    labelled = args.labelled or task.path("labelled.jsonl")
    if args.write:
        check_writable(args.write)
    result = asyncio.run(_measure(settings, labelled))
    origin = {
        "task": task.name,
        "model": settings.aligner.model.name,
        "template": settings.aligner.template.name,
        "labelled": labelled.name,
    }
    print(f"{origin['model']} on {origin['labelled']} with {origin['template']} ({PAPER})\n{result}")
    if args.write:
        content = {**origin, **dataclasses.asdict(result)}
        write_atomic(args.write, f"{json.dumps(content, indent=2)}\n".encode())
        print(f"written to {args.write}")
    return 0


async def _measure(settings: Settings, labelled: Path) -> Preflight:
    texts = load_labelled(labelled)
    engine, tokenizer = open_engine(settings.aligner.model, settings.placement)
    prompt = SelfEvalPrompt(settings.aligner.template, TokenizerAdapter(tokenizer))
    evaluator = LabelEvaluator(prompt, settings.aligner.evaluation, settings.aligner.task.cut_after_full_stop)
    try:
        return await measure(evaluator, engine, texts)
    finally:
        await engine.close()
