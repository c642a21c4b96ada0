"""A small benchmark in a folder, and runs of it with any engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rain.aligner import Runner
from rain.core.config import RainConfig
from rain.core.engine import Engine
from rain.data.datasets import Prompt
from rain.data.readers import HH
from rain.engines.toy import ToyEncoder, ToyTokenizer
from rain.settings import make_settings
from rain.tasks.task import Task

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
TIMES = ("seconds", "model_seconds")
SMALL = {"max_simulations": 12, "extra_simulations": 6, "min_visits": 3, "max_new_tokens": 16, "candidates": 5}


def make_task(folder: Path, prompt: str = "Human: {question}\n\nAssistant:", **options: Any) -> Task:
    (folder / "templates").mkdir(exist_ok=True)
    (folder / "templates" / "prompt.txt").write_text(prompt + "\n")
    (folder / "templates" / "letters.txt").write_text(LETTERS)
    files = {"folder": folder, "dataset": "data.jsonl", "template": "templates/letters.txt"}
    return Task(name="tiny", reader=HH, config=RainConfig(**{**SMALL, "max_draws": 4}), **{**files, **options})


def make_runner(task: Task, engine: Engine, tokenizer: Any = None, **given: Any) -> Runner:
    return Runner(make_settings(task, given), engine, tokenizer or ToyTokenizer(), ToyEncoder())


def prompts(*questions: str) -> list[Prompt]:
    return [Prompt(f"tiny-{i:05d}", question) for i, question in enumerate(questions)]


def records(runner: Runner, asked: Sequence[Prompt], concurrency: int = 1) -> list[dict[str, Any]]:
    """Return the records of all prompts in order, so many in work at a time."""

    async def run() -> list[dict[str, Any]]:
        await runner.warm_up()
        gate = asyncio.Semaphore(concurrency)

        async def one(prompt: Prompt) -> dict[str, Any]:
            async with gate:
                return await runner.record(prompt)

        return list(await asyncio.gather(*map(one, asked)))

    return asyncio.run(run())


def decisions(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a record says of decisions: everything but the cost, of which only the counts of the search stay."""
    kept = {name: value for name, value in record.items() if name != "cost"}
    counts = {name: record["cost"]["rain"][name] for name in ("simulations", "evaluations", "requests")}
    return {**kept, **counts}
