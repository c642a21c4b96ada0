"""``rain preflight``: measures whether an evaluator can tell good texts from bad ones, and calibrates it."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rain.aligner import open_config_evaluator
from rain.configs import AlignerConfig, RunConfig, Settings
from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.data.labelled import Labelled, load_part
from rain.engines.registry import open_engine
from rain.evaluators.assessment import Preflight
from rain.evaluators.preflight import check_classes, measure
from rain.evaluators.readout_file import ReadOutFile, learnt_from
from rain.evaluators.registry import describe
from rain.methods.config import MethodConfig
from rain.presets import choose_preset
from rain.progress import progress_bar
from rain.prompts import PromptFormatter
from rain.results.files import check_writable, write_atomic
from rain.settings import add_setting_flags, given_settings, make_settings
from rain.tasks import load, names
from rain.terminal import printable, say
from rain.text import TokenizerAdapter

PAPER = "paper, table 6: 52-98 %, from LLaMA-7B to LLaMA-2-70B"


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which labelled texts are used."""
    parser.add_argument("--task", default="hh", choices=names(), help="whose settings and texts (default: hh)")
    text = "texts with question, response and label, 1 for good and 0 for bad (default: the task's)"
    parser.add_argument("--labelled", type=Path, nargs="+", help=text)
    parser.add_argument("--part", default="", help="K/N: only the texts of the K-th of N parts of the prompts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain preflight``."""
    parser.usage = "%(prog)s [FLAGS]"
    add_text_arguments(parser)
    parser.add_argument("--write", type=Path, help="write metrics and calibration here (JSON), for --calibration")
    parser.add_argument("--calibrate", type=Path, help="write the read-out of --evaluator here, calibrated")
    add_setting_flags(parser, without=[RunConfig, MethodConfig, RainConfig])


def run(args: argparse.Namespace) -> int:
    """Measure an evaluator, print the metrics and write the calibration."""
    task, given = load(args.task), given_settings(args)
    used = given.get("evaluator", choose_preset(task, given).get("evaluator", ("labels",)))
    if tuple(used) == ("labels",):  # a preset's calibration is what is measured here
        given = {"votes": "hard", "calibration": "", **given}
    settings = make_settings(task, given)
    texts, learnt_on = load_part(args.labelled or [task.path("labelled.jsonl")], args.part)
    for output in (args.write, args.calibrate):
        if output:
            check_writable(output)
    return measure_evaluator(settings, texts, learnt_on, args)


def measure_evaluator(
    settings: Settings, texts: list[Labelled], learnt_on: Mapping[str, Any], args: argparse.Namespace
) -> int:
    """Print how well the evaluator tells the texts apart; write that, the calibration or a calibrated read-out."""
    config, specs = settings.aligner, settings.aligner.evaluators
    read_out = specs[0]
    if args.calibrate:
        if not (len(specs) == 1 and isinstance(read_out, ReadOutFile)):
            raise RainError("--calibrate needs --evaluator readout:NAME|FILE, and no other evaluator")
        specs = (replace(read_out, request=None),)  # what it says of texts is calibrated, whatever the requests
    config = replace(config, evaluators=specs)
    check_classes(texts)
    for what, known in _sources(config, getattr(args, "calibration", "")):
        if (file := shared_file(known, learnt_on)) is not None:
            say(printable(f"rain: warning: {what} was learnt from {file}: the result is optimistic"), sys.stderr)
    result = asyncio.run(_measure(config, settings, texts))
    origin = {
        "task": config.task.name,
        "model": config.model.name,
        "template": config.template.name,
        "labelled": ", ".join(data["file"] for data in learnt_on["data"]),
        "evaluators": [describe(spec) for spec in specs],
        **learnt_on,
    }
    shown = f"{config.template.name} ({PAPER})" if specs == ("labels",) else " and ".join(map(describe, specs))
    say(printable(f"{origin['model']} on {origin['labelled']} with {shown}") + f"\n{result}")
    if args.write:
        content = {**origin, **dataclasses.asdict(result)}
        write_atomic(args.write, f"{json.dumps(content, indent=2)}\n".encode())
        print(f"written to {args.write}")
    if args.calibrate and isinstance(read_out, ReadOutFile):
        made = read_out.calibrated(result.offset, result.scale, {**learnt_on, **dataclasses.asdict(result)})
        write_atomic(args.calibrate, made.as_json())
        print(f"written to {args.calibrate}; use it with --evaluator readout:{args.calibrate}")
    return 0


def _sources(config: AlignerConfig, calibration: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what the read-outs and the calibration in use were learnt from, by their names."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for spec in config.evaluators:
        if isinstance(spec, ReadOutFile):
            found += [(f"the read-out {spec.name}", spec.measured)]
            found += [(f"the calibration in {spec.name}", spec.measured.get("calibrated", {}))]
    if calibration:
        path = Path(calibration)
        path = path if path.exists() else config.task.path(calibration)
        found.append((f"the calibration {calibration}", json.loads(path.read_text(encoding="utf-8"))))
    return found


def shared_file(known: Mapping[str, Any], used: Mapping[str, Any]) -> str | None:
    """Return the file that two descriptions of data share, unless they have different parts of its prompts."""
    parts = [list(map(int, re.findall(r"\d+", str(each.get("part") or "1/1")))) for each in (known, used)]
    if parts[0][1:] == parts[1][1:] and parts[0] != parts[1]:
        return None
    digests = {data.get("sha256") for data in learnt_from(known)}
    return next((data["file"] for data in used["data"] if data["sha256"] in digests), None)


async def _measure(config: AlignerConfig, settings: Settings, texts: Sequence[Labelled]) -> Preflight:
    engine, tokenizer = open_engine(config.model, settings.placement)
    evaluator = None
    try:
        adapter = TokenizerAdapter(tokenizer, engine.eos)
        formatter, policy = PromptFormatter(adapter, config.prompt_file), config.task.policy(adapter)
        evaluator = open_config_evaluator(config, adapter, upright=True)
        with progress_bar(len(texts), "text") as bar:
            return await measure(evaluator, engine, formatter, policy, texts, bar.update)
    finally:
        if evaluator:
            await evaluator.close()
        await engine.close()
