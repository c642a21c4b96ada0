"""A small benchmark in a folder, and runs of it with any engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rain.aligner import Aligner
from rain.core.config import RainConfig
from rain.core.engine import Engine
from rain.data.datasets import Prompt
from rain.data.readers import HH
from rain.engines.toy import ToyEncoder, ToyTokenizer
from rain.evaluators.templates import Template
from rain.settings import make_settings
from rain.tasks.task import Task

ROOT = Path(__file__).parents[2]
PROMPT_FILES = sorted(ROOT.glob("*/templates/prompt*.txt"))
SHIPPED = sorted(set(ROOT.glob("*/templates/*.txt")) - set(PROMPT_FILES))
LETTERS = """# Short, so that tests are fast.
=== kind
letters
=== examples
Is it kind?

=== question
Human: {question}

Assistant:{response}
=== ask

(A) {first}
(B) {second}
The answer is: (
=== positive
kind
=== negative
unkind
"""
WORDS = """=== kind
words
=== examples
Is it true?
=== question
Q: {question} A:{response}
=== ask
 True:
=== positive
" yes"
yes
=== negative
" no"
"""
SMALL = {"max_simulations": 12, "extra_simulations": 6, "min_visits": 3, "max_new_tokens": 16, "candidates": 5}


def make_task(folder: Path, prompt: str = "Human: {question}\n\nAssistant:", **options: Any) -> Task:
    (folder / "templates").mkdir(exist_ok=True)
    (folder / "templates" / "prompt.txt").write_text(prompt + "\n")
    (folder / "templates" / "letters.txt").write_text(LETTERS)
    files = {"folder": folder, "dataset": "data.jsonl", "template": "templates/letters.txt"}
    return Task(name="tiny", reader=HH, config=RainConfig(**{**SMALL, "max_draws": 4}), **{**files, **options})


def saved(folder: Path, text: str, name: str = "template.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def template(folder: Path, text: str = LETTERS) -> Template:
    return Template.from_file(saved(folder, text))


def make_aligner(task: Task, engine: Engine, tokenizer: Any = None, *, eager: bool = False, **given: Any) -> Aligner:
    config = make_settings(task, given).aligner
    return Aligner(config, engine, tokenizer or ToyTokenizer(), ToyEncoder(), eager=eager)


def prompts(*questions: str) -> list[Prompt]:
    return [Prompt(f"tiny-{i:05d}", question) for i, question in enumerate(questions)]


def records(aligner: Aligner, asked: Sequence[Prompt], concurrency: int = 1) -> list[dict[str, Any]]:
    """Return the records of all prompts in order, with this many in progress at once."""

    async def run() -> list[dict[str, Any]]:
        await aligner.warm_up()
        gate = asyncio.Semaphore(concurrency)

        async def one(prompt: Prompt) -> dict[str, Any]:
            async with gate:
                return await aligner.record(prompt)

        return await asyncio.gather(*map(one, asked))

    return asyncio.run(run())


def decisions(record: dict[str, Any]) -> dict[str, Any]:
    """Return everything in a record but the cost, of which only the counts of the search are kept."""
    kept = {name: value for name, value in record.items() if name != "cost"}
    counts = {name: record["cost"]["rain"][name] for name in ("simulations", "evaluations", "requests")}
    return {**kept, **counts}
