"""``rain draw``: partial answers of the model itself, for people to label."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from rain.configs import RunConfig, Settings, SourcesConfig
from rain.core.errors import RainError
from rain.data.datasets import load_prompts
from rain.engines.registry import open_engine
from rain.evaluators.labelling import write_rows
from rain.evaluators.labels import EvaluationConfig
from rain.evaluators.own import OwnTexts, Texts, numbered
from rain.methods.config import MethodConfig
from rain.progress import progress_bar
from rain.prompts import PromptFormatter
from rain.results.files import check_writable
from rain.settings import add_setting_flags, given_settings, make_settings
from rain.tasks import load, names
from rain.terminal import counted, say
from rain.text import TokenizerAdapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain draw``."""
    parser.usage = "%(prog)s FILE.jsonl --prompts FILE [FLAGS]"
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="where the texts go; must not exist yet")
    text = "data set of the task: .jsonl, .json or .csv"
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help=text)
    parser.add_argument("--count", type=int, default=300, metavar="N", help="number of texts (default: 300)")
    parser.add_argument("--task", default="hh", choices=names(), help="whose settings (default: hh)")
    add_setting_flags(parser, without=[RunConfig, MethodConfig, SourcesConfig, EvaluationConfig])


def run(args: argparse.Namespace) -> int:
    """Draw the texts and write them."""
    settings = make_settings(load(args.task), given_settings(args), format_known=False)
    if args.count < 1:
        raise RainError(f"--count is {args.count}; it must be at least 1")
    if args.file.exists():
        raise RainError(f"{args.file} is there already; its labels would be lost")
    check_writable(args.file)
    reader = replace(settings.aligner.task.reader, hub={})  # files alone
    questions = [prompt.question for prompt in load_prompts(args.prompts, reader)]
    if notice := settings.preset_notice():
        say(notice, sys.stderr)
    found: Texts = {}
    try:
        asyncio.run(_draw(settings, questions, args.count, found))
    finally:  # an interruption loses no text
        if found:
            write_rows(args.file, numbered(found, settings.aligner.prompting.seed))
            print(f"{counted(len(found), 'text')} written to {args.file}; label them with rain label {args.file}")
    return 0


async def _draw(settings: Settings, questions: list[str], count: int, found: Texts) -> None:
    config = settings.aligner
    engine, tokenizer = open_engine(config.model, settings.placement)
    try:
        adapter = TokenizerAdapter(tokenizer, engine.eos)
        formatter, policy = PromptFormatter(adapter, config.prompt_file), config.task.policy(adapter)
        texts = OwnTexts(engine, formatter, policy, config.search, config.prompting.seed)
        with progress_bar(count, "text") as bar:
            await texts.draw(questions, count, found, bar.update)
    finally:
        await engine.close()
