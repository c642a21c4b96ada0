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
from rain.data.datasets import load_prompts
from rain.engines.registry import open_engine
from rain.evaluators.labels import LabelEvaluator, SelfEvalPrompt
from rain.evaluators.learn import figures, learn, mean_states
from rain.evaluators.own import OwnTexts, write_texts
from rain.evaluators.preflight import Preflight, measure
from rain.evaluators.readout import ReadOutFile, prompt_format
from rain.flags import add_flags
from rain.models.loading import load_model
from rain.prompts import PromptFormatter
from rain.results.files import check_writable, write_atomic
from rain.settings import CONFIGS, RunConfig, Settings, make_settings
from rain.tables import text_table
from rain.tasks import load, names
from rain.text import TextStopPolicy, TokenizerAdapter

PAPER = "paper, table 6: 52-98 %, from LLaMA-7B to LLaMA-2-70B"
OWN_FLAGS = ("command", "task", "labelled", "write", "learn", "name", "part", "own", "prompts", "out")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain preflight``."""
    parser.add_argument("--task", default="hh", choices=names(), help="whose template and texts (default: hh)")
    parser.add_argument(
        "--labelled", type=Path, nargs="+", help="texts with question, response and label (default: the task's)"
    )
    parser.add_argument("--part", default="", help="K/N: only the texts of the K-th of N parts of the prompts")
    parser.add_argument("--learn", type=Path, help="learn a read-out from the texts and write it here (JSON)")
    parser.add_argument("--name", default="good", help="of the read-out, such as harmless")
    parser.add_argument("--write", type=Path, help="write metrics and calibration here (JSON), for --calibration")
    parser.add_argument("--own", type=int, default=0, metavar="N", help="draw N partial answers of the model itself")
    parser.add_argument("--prompts", type=Path, help="of --own: a file of the task's prompts")
    parser.add_argument("--out", type=Path, default=Path("own.jsonl"), help="of --own (default: own.jsonl)")
    for config, title in CONFIGS:
        if config is not RunConfig:
            add_flags(parser, config, {}, title)


def run(args: argparse.Namespace) -> int:
    """Measure self-evaluation, print the metrics and write the calibration."""
    task = load(args.task)
    given = {name: value for name, value in vars(args).items() if name not in OWN_FLAGS}
    settings = make_settings(task, {**given, "calibration": ""})  # a preset's calibration is what is measured here
    if args.own:
        return asyncio.run(_draw(settings, args))
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
    formatter = PromptFormatter(TokenizerAdapter(tokenizer), config.prompt_file)
    with tqdm(total=len(texts), unit="text") as bar:
        states, counts, layers = mean_states(ReferenceEngine(model, tokenizer), formatter, texts, bar.update)
    learnt = learn(states, counts, layers, texts)
    by_length = figures(learnt, texts)
    data = [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths]
    measured = {"learnt_on": data, "part": args.part, "texts": len(texts), "C": learnt.ridge, "by_length": by_length}
    weights = tuple(float(f"{value:.6g}") for value in learnt.weights)
    name, used = config.model.name, prompt_format(config.prompt_file)
    file = ReadOutFile(args.name, name, used, learnt.layer, weights, learnt.bias, measured)
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


async def _draw(settings: Settings, args: argparse.Namespace) -> int:
    """Write partial answers of the model itself, for people to label."""
    if args.own < 1 or args.prompts is None:
        raise RainError("--own needs a number of at least 1, and --prompts FILE")
    if args.out.exists():
        raise RainError(f"--out is {args.out}, which is there already; its labels would be lost")
    check_writable(args.out)
    config = settings.aligner
    questions = [prompt.question for prompt in load_prompts(args.prompts, config.task.reader)]
    engine, tokenizer = open_engine(config.model, settings.placement)
    try:
        adapter = TokenizerAdapter(tokenizer, engine.eos)
        policy = TextStopPolicy(adapter, config.task.stop_strings, config.task.to_end, pausing=adapter.pausing_tokens())
        formatter = PromptFormatter(adapter, config.prompt_file)
        texts = OwnTexts(engine, formatter, policy, config.search, config.prompting.seed)
        with tqdm(total=args.own, unit="text") as bar:
            rows = await texts.draw(questions, args.own, bar.update)
    finally:
        await engine.close()
    write_texts(args.out, rows)
    print(f"{len(rows)} texts written to {args.out}; label them with rain preflight --label {args.out}")
    return 0
