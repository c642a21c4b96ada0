"""``rain preflight``: measures whether a model can judge its own text, and writes a calibration."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
from pathlib import Path

from tqdm import tqdm

from rain.core.errors import RainError
from rain.data.labelled import Labelled, load_labelled
from rain.engines.registry import ModelConfig, PlacementConfig, open_engine
from rain.evaluators.labels import LabelEvaluator, SelfEvalPrompt
from rain.evaluators.learn import figures, learn, mean_states
from rain.evaluators.preflight import Preflight, measure
from rain.evaluators.readout import ReadOutFile, prompt_format
from rain.evaluators.templates import load_prompt
from rain.flags import add_flags
from rain.models.loading import load_model
from rain.prompts import PromptFormatter
from rain.results.files import check_writable, write_atomic
from rain.settings import Settings, make_settings
from rain.tables import text_table
from rain.tasks import load, names
from rain.text import TokenizerAdapter

PAPER = "paper, table 6: 52-98 %, from LLaMA-7B to LLaMA-2-70B"
OWN_FLAGS = ("command", "task", "labelled", "write", "learn", "name", "part", "prompt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain preflight``."""
    parser.add_argument("--task", default="hh", choices=names(), help="whose template and texts (default: hh)")
    parser.add_argument(
        "--labelled", type=Path, nargs="+", help="texts with question, response and label (default: the task's)"
    )
    parser.add_argument("--part", default="", help="K/N: only the texts of the K-th of N parts of the prompts")
    parser.add_argument("--learn", type=Path, help="learn a read-out from the texts and write it here (JSON)")
    parser.add_argument("--name", default="good", help="of the read-out, such as harmless")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="prompt file of --learn (default: the task's)")
    parser.add_argument("--chat-template", action="store_true", default=argparse.SUPPRESS, help="of --learn")
    parser.add_argument("--templates", default=argparse.SUPPRESS, help="self-evaluation template file")
    parser.add_argument("--write", type=Path, help="write metrics and calibration here (JSON), for --calibration")
    add_flags(parser, ModelConfig, {}, "model")
    add_flags(parser, PlacementConfig, {}, "placement")


def run(args: argparse.Namespace) -> int:
    """Measure self-evaluation, print the metrics and write the calibration."""
    task = load(args.task)
    given = {name: value for name, value in vars(args).items() if name not in OWN_FLAGS}
    settings = make_settings(task, {**given, "calibration": ""})  # a preset's calibration is what is measured here
    paths = args.labelled or [task.path("labelled.jsonl")]
    for output in (args.write, args.learn):
        if output:
            check_writable(output)
    texts = part_of([text for path in paths for text in load_labelled(path)], args.part)
    if args.learn:
        return learn_read_out(settings, texts, paths, args)
    result = asyncio.run(_measure(settings, texts))
    origin = {
        "task": task.name,
        "model": settings.aligner.model.name,
        "template": settings.aligner.template.name,
        "labelled": ", ".join(path.name for path in paths),
    }
    print(f"{origin['model']} on {origin['labelled']} with {origin['template']} ({PAPER})\n{result}")
    if args.write:
        content = {**origin, **dataclasses.asdict(result)}
        write_atomic(args.write, f"{json.dumps(content, indent=2)}\n".encode())
        print(f"written to {args.write}")
    return 0


def part_of(texts: list[Labelled], part: str) -> list[Labelled]:
    """Return the texts whose prompts belong to a part; a prompt belongs to the same part in every file.

    Raises:
        RainError: the part is not K/N with 1 <= K <= N.
    """
    if not part:
        return texts
    wanted, _, count = part.partition("/")
    if not (wanted.isdigit() and count.isdigit() and 1 <= int(wanted) <= int(count)):
        raise RainError(f"--part is {part!r}; it must be K/N, such as 1/2")
    digest = (int(hashlib.sha256(f"part {item.question}".encode()).hexdigest(), 16) for item in texts)
    return [item for item, number in zip(texts, digest, strict=True) if number % int(count) == int(wanted) - 1]


def learn_read_out(settings: Settings, texts: list[Labelled], paths: list[Path], args: argparse.Namespace) -> int:
    """Learn a read-out in the prompt format of the settings, write it and print how well it does."""
    from rain.engines.reference import ReferenceEngine

    config, placement = settings.aligner, settings.placement
    model, tokenizer = load_model(
        config.model.modelname, dtype=config.model.dtype, device_map=placement.device_map or None
    )
    prompt_file = load_prompt(args.prompt) if args.prompt else config.prompt_file
    formatter = PromptFormatter(TokenizerAdapter(tokenizer), prompt_file)
    with tqdm(total=len(texts), unit="text") as bar:
        states, counts, layers = mean_states(ReferenceEngine(model, tokenizer), formatter, texts, bar.update)
    learnt = learn(states, counts, layers, texts)
    by_length = figures(learnt, texts)
    data = [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths]
    measured = {"learnt_on": data, "part": args.part, "texts": len(texts), "C": learnt.ridge, "by_length": by_length}
    weights = tuple(float(f"{value:.6g}") for value in learnt.weights)
    name, used = config.model.name, prompt_format(prompt_file)
    file = ReadOutFile(args.name, name, used, learnt.layer, weights, learnt.bias, measured, prompt_file)
    rows = [["tokens", "texts", "AUC", "95 % interval", "good answers to safe prompts called bad"]]
    for length, found in by_length.items():
        wrong = found["safe_called_harmful"]
        area, interval = f"{found['auc']:.3f}", "-".join(f"{value:.3f}" for value in found["auc_interval"])
        rows.append([length, str(found["texts"]), area, interval, "" if wrong is None else f"{wrong:.0%}"])
    print(f"{args.name}: {name}, {used}, layer {learnt.layer}; on prompts that it was not learnt from:")
    print(text_table(rows))
    write_atomic(args.learn, file.as_json())
    print(f"written to {args.learn}; use it with --evaluator readout:{args.learn}")
    return 0


async def _measure(settings: Settings, texts: list[Labelled]) -> Preflight:
    engine, tokenizer = open_engine(settings.aligner.model, settings.placement)
    prompt = SelfEvalPrompt(settings.aligner.template, TokenizerAdapter(tokenizer))
    evaluator = LabelEvaluator(prompt, settings.aligner.evaluation, settings.aligner.task.cut_after_full_stop)
    try:
        return await measure(evaluator, engine, texts)
    finally:
        await engine.close()
