"""One row of the benchmark: so many searches, or plain answers, of one engine."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rain.aligner import Runner
from rain.core.engine import Engine
from rain.core.search import Search
from rain.core.tree import Node
from rain.core.types import Tokens
from rain.data.datasets import Prompt
from rain.engines.local.engine import HfEngine
from rain.results.jsonl import Record
from rain.settings import Settings
from rain.text import TextsEncoder


class PublishedSearch(Search):
    """Expands a leaf in the simulation that reaches it, as the published code does.

    The decisions are those of ``Search``, which expands a node when a later simulation passes through it.
    """

    async def _forward(self) -> tuple[list[Node], Tokens]:
        path, prefix = await super()._forward()
        await self._expand(path[-1], prefix)
        return path, prefix


@dataclass
class Bench:
    """What is measured, and with what.

    Attributes:
        settings: of the searches.
        prompts: a row takes as many of them as it runs at a time.
        encoder: the sentence encoder.
    """

    settings: Settings
    prompts: list[Prompt]
    encoder: TextsEncoder

    def load(self) -> tuple[Any, Any]:
        """Load the model anew: an engine changes the attention of the one it gets."""
        from rain.models.loading import load_model

        engine = self.settings.engine
        return load_model(engine.modelname, dtype=engine.dtype, device_map=engine.device_map or None)

    def tree_engine(self) -> HfEngine:
        """Return a fresh engine with an empty cache."""
        engine = self.settings.engine
        return HfEngine(*self.load(), max_batch_tokens=engine.max_batch_tokens, cache_tokens=engine.cache_tokens)

    def runner(self, engine: Engine, tokenizer: Any) -> Runner:
        """Return what runs the searches and plain answers on an engine."""
        return Runner(self.settings, engine, tokenizer, self.encoder)

    async def all(self, one: Callable[[Prompt], Awaitable[Record]], count: int, width: int) -> list[Record]:
        """Do something with the first ``count`` prompts, ``width`` at a time."""
        gate = asyncio.Semaphore(width)

        async def gated(prompt: Prompt) -> Record:
            async with gate:
                return await one(prompt)

        return await asyncio.gather(*map(gated, self.prompts[:count]))


async def run_searches(bench: Bench, runner: Runner, count: int, width: int) -> dict[str, Any]:
    """Search the answers of ``count`` prompts, ``width`` at a time.

    Returns:
        the row: see ``summarise``; of engines in this process also the shares of the time in the model, in the search
        (with batching and sampling), idle (waiting, for embeddings mostly) and, beside them, in the embedding thread.
    """
    forget_peak_memory()
    await runner.warm_up()
    engine = runner.engine
    scheduler = engine.shared.scheduler if isinstance(engine, HfEngine) else None
    embedded = getattr(bench.encoder, "seconds", 0.0)
    model = scheduler.model_seconds if scheduler else 0.0
    busy, started = time.thread_time(), time.perf_counter()
    results = await bench.all(runner.searched, count, width)
    wall, busy = time.perf_counter() - started, time.thread_time() - busy
    row = summarise(results, wall)
    row["embedding_share"] = (getattr(bench.encoder, "seconds", 0.0) - embedded) / wall
    if scheduler:
        row["model_share"] = (scheduler.model_seconds - model) / wall
        row["outside_model_share"] = 1 - row["model_share"]
        row["idle_share"] = min(row["outside_model_share"], max(0.0, 1 - busy / wall))
        row["search_share"] = row["outside_model_share"] - row["idle_share"]
        row["evictions"], row["passes"] = scheduler.evictions, scheduler.steps
    return row


def summarise(results: Sequence[Record], wall: float) -> dict[str, Any]:
    """Return totals of finished searches, and seconds per simulation and per committed token."""
    totals = {name: sum(result["cost"][name] for result in results) for name in results[0]["cost"]}
    tokens, distinct = sum(result["length"] for result in results), totals["tokens_distinct"] or None
    return {
        "prompts": len(results),
        "seconds": wall,
        "simulations": totals["simulations"],
        "committed_tokens": tokens,
        "seconds_per_simulation": wall / totals["simulations"],
        "seconds_per_committed_token": wall / tokens,
        "tokens_computed": totals["tokens_computed"],
        "distinct_tokens": distinct,
        "tokens_per_simulation": totals["tokens_computed"] / totals["simulations"],
        "computed_over_distinct": totals["tokens_computed"] / distinct if distinct else None,
        "forward_passes": totals["forward_passes"],
        "peak_memory_mib": peak_memory_mib(),
        "answers": [result["text"] for result in results],
    }


def forget_peak_memory() -> None:
    """Free what earlier rows left behind, and have the kernel count the peak from here (Linux)."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process since ``forget_peak_memory`` (elsewhere: since it began)."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def run_plain(bench: Bench, runner: Runner, count: int, width: int) -> dict[str, float]:
    """Answer ``count`` prompts by greedy decoding, ``width`` at a time; return seconds and tokens per answer."""
    await runner.warm_up()
    started = time.perf_counter()
    answers = await bench.all(runner.answered, count, width)
    seconds = (time.perf_counter() - started) / len(answers)
    return {"seconds": seconds, "tokens": sum(answer["length"] for answer in answers) / len(answers)}
