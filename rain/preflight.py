"""``rain preflight``: measures whether an evaluator can tell good texts from bad ones, and calibrates it."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rain.aligner import open_config_evaluator
from rain.configs import AlignerConfig, Settings
from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.data.datasets import load_prompts
from rain.data.labelled import Labelled, load_labelled
from rain.engines.registry import open_engine
from rain.evaluators.assessment import Preflight
from rain.evaluators.labelling import keyboard, label_texts, write_rows
from rain.evaluators.metrics import ranking_table
from rain.evaluators.own import OwnTexts
from rain.evaluators.preflight import check_classes, measure
from rain.evaluators.readout_file import ReadOutFile, learnt_from, prompt_format
from rain.evaluators.registry import describe
from rain.evaluators.templates import load_prompt
from rain.models.loading import model_files
from rain.presets import choose_preset
from rain.prompts import PromptFormatter
from rain.results.files import check_writable, write_atomic
from rain.results.inputs import fingerprint
from rain.settings import add_answer_flags, given_settings, make_settings
from rain.stopping import TextStopPolicy
from rain.tasks import load, names
from rain.terminal import printable, say
from rain.text import TokenizerAdapter

PAPER = "paper, table 6: 52-98 %, from LLaMA-7B to LLaMA-2-70B"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain preflight``."""
    parser.add_argument("--task", default="hh", choices=names(), help="whose settings and texts (default: hh)")
    parser.add_argument(
        "--labelled", type=Path, nargs="+", help="texts with question, response and label (default: the task's)"
    )
    parser.add_argument("--part", default="", help="K/N: only the texts of the K-th of N parts of the prompts")
    parser.add_argument("--write", type=Path, help="write metrics and calibration here (JSON), for --calibration")
    parser.add_argument("--learn", type=Path, help="learn a read-out from the texts and write it here (JSON)")
    parser.add_argument("--name", default="good", help="of the read-out, such as harmless")
    parser.add_argument("--request", action="store_true", help="of --learn: read the request, too (prompt_is_safe)")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="prompt file of --learn (default: the task's)")
    parser.add_argument("--calibrate", type=Path, help="write the read-out of --evaluator here, calibrated")
    parser.add_argument("--own", type=int, default=0, metavar="N", help="draw N partial answers of the model itself")
    parser.add_argument("--prompts", type=Path, help="of --own: a file of the task's prompts")
    parser.add_argument("--out", type=Path, default=Path("own.jsonl"), help="of --own (default: own.jsonl)")
    parser.add_argument("--label", type=Path, metavar="FILE.jsonl", help="label the texts of a file, key by key")
    add_answer_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Measure an evaluator, print the metrics and write the calibration; or draw texts, or learn a read-out."""
    if args.label:
        with keyboard() as read_key:
            left = label_texts(args.label, read_key)
        print(f"{args.label}: {left} texts without a label" + ("; the same command continues" if left else ""))
        return 0
    for name, needed in (("request", "learn"), ("prompt", "learn"), ("prompts", "own")):
        if getattr(args, name) and not getattr(args, needed):
            raise RainError(f"--{name} is for --{needed}; leave it out")
    for name in ("write", "calibrate", *(("learn", "part") if args.own else ())):
        if getattr(args, name) and (args.own or args.learn):
            raise RainError(f"--{name} does nothing with --{'own' if args.own else 'learn'}; leave it out")
    task = load(args.task)
    given = given_settings(args)
    used = given.get("evaluator", choose_preset(task, given).get("evaluator", ("labels",)))
    if tuple(used) == ("labels",):  # a preset's calibration is what is measured here
        given = {"votes": "hard", "calibration": "", **given}
    settings = make_settings(task, given)
    if args.own:
        return asyncio.run(_draw(settings, args))
    paths = args.labelled or [task.path("labelled.jsonl")]
    for output in (args.write, args.learn, args.calibrate):
        if output:
            check_writable(output)
    texts = part_of([text for path in paths for text in load_labelled(path)], args.part)
    learnt_on = {"data": [_digest(path) for path in paths], "part": args.part}
    if args.learn:
        return learn_read_out(settings, texts, learnt_on, args)
    return measure_evaluator(settings, texts, learnt_on, args)


def part_of(texts: list[Labelled], part: str) -> list[Labelled]:
    """Return the texts whose prompts belong to a part; a prompt belongs to the same part in every file.

    The last bit of a prompt's SHA-256 has no say in it: public files are split by that already.

    Raises:
        RainError: the part is not K/N with 1 <= K <= N.
    """
    if not part:
        return texts
    wanted, _, count = part.partition("/")
    if not (wanted.isdecimal() and count.isdecimal() and 1 <= int(wanted) <= int(count)):
        raise RainError(f"--part is {part!r}; it must be K/N, such as 1/2")
    digest = (int(hashlib.sha256(item.question.encode(errors="surrogatepass")).hexdigest(), 16) >> 1 for item in texts)
    return [item for item, number in zip(texts, digest, strict=True) if number % int(count) == int(wanted) - 1]


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


def _digest(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


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


def learn_read_out(
    settings: Settings, texts: list[Labelled], learnt_on: Mapping[str, Any], args: argparse.Namespace
) -> int:
    """Learn a read-out in the prompt format of the settings, write it and print how well it does."""
    from rain.evaluators.learn import figures, hidden_states, learn, learn_request, rounded

    config = settings.aligner
    engine, tokenizer = open_engine(replace(config.model, engine="reference"), settings.placement)
    prompt_file = load_prompt(args.prompt) if args.prompt else config.prompt_file
    formatter = PromptFormatter(TokenizerAdapter(tokenizer), prompt_file)
    with tqdm(total=len(texts), unit="text", disable=None) as bar:
        states = hidden_states(engine, formatter, texts, bar.update)  # type: ignore[arg-type]
    learnt = learn(states, texts)
    by_length = figures(learnt, states.counts, texts)
    measured = {**learnt_on, "texts": len(texts), "C": learnt.ridge, "by_length": by_length}
    request = None
    if args.request:
        request, measured["request"] = learn_request(states, texts)
    name, used, weights = config.model.name, prompt_format(prompt_file), rounded(learnt.weights)
    files = fingerprint(model_files(config.model.modelname, "hf"))
    file = ReadOutFile(args.name, name, used, learnt.layer, weights, learnt.bias, measured, prompt_file, request, files)
    print(f"{args.name}: {name}, {used}, layer {learnt.layer}; on prompts that it was not learnt from:")
    print(ranking_table("tokens", by_length))
    if request:
        area, known = measured["request"]["auc"], measured["request"]["requests"]
        print(f"harmful requests: layer {request.layer}, AUC {area:.3f} on {known} requests, held out")
    write_atomic(args.learn, file.as_json())
    print(f"written to {args.learn}; use it with --evaluator readout:{args.learn}")
    return 0


def _prompting(config: AlignerConfig, engine: Engine, tokenizer: Any) -> tuple[PromptFormatter, TextStopPolicy]:
    """Return the prompt format and the rules of the task, as a search has them."""
    adapter = TokenizerAdapter(tokenizer, engine.eos)
    return PromptFormatter(adapter, config.prompt_file), config.task.policy(adapter)


async def _measure(config: AlignerConfig, settings: Settings, texts: Sequence[Labelled]) -> Preflight:
    engine, tokenizer = open_engine(config.model, settings.placement)
    evaluator = None
    try:
        formatter, policy = _prompting(config, engine, tokenizer)
        evaluator = open_config_evaluator(config, formatter.adapter, upright=True)
        with tqdm(total=len(texts), unit="text", disable=None) as bar:
            return await measure(evaluator, engine, formatter, policy, texts, bar.update)
    finally:
        if evaluator:
            await evaluator.close()
        await engine.close()


async def _draw(settings: Settings, args: argparse.Namespace) -> int:
    """Write partial answers of the model itself, for people to label."""
    if args.own < 1 or args.prompts is None:
        raise RainError("--own needs a number of at least 1, and --prompts FILE")
    if args.out.exists():
        raise RainError(f"--out is {args.out}, which is there already; its labels would be lost")
    check_writable(args.out)
    config = settings.aligner
    reader = replace(config.task.reader, hub={})  # files alone
    questions = [prompt.question for prompt in load_prompts(args.prompts, reader)]
    engine, tokenizer = open_engine(config.model, settings.placement)
    try:
        texts = OwnTexts(engine, *_prompting(config, engine, tokenizer), config.search, config.prompting.seed)
        with tqdm(total=args.own, unit="text", disable=None) as bar:
            rows = await texts.draw(questions, args.own, bar.update)
    finally:
        await engine.close()
    write_rows(args.out, rows)
    print(f"{len(rows)} texts written to {args.out}; label them with rain preflight --label {args.out}")
    return 0
