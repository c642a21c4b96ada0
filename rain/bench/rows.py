"""One row of the benchmark: a number of searches, or of greedy answers, on one engine."""

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

from rain.aligner import Aligner
from rain.core.engine import Engine
from rain.costs import total
from rain.data.datasets import Prompt
from rain.engines.registry import PlacementConfig, open_loaded
from rain.generation import Answer, PreparedPrompt
from rain.models.loading import auto_dtype, cpu_features, load_model
from rain.pool.devices import cpu_cores
from rain.settings import AlignerConfig
from rain.text import SentenceEncoder

NUMBER_FEATURES = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm"}


@dataclass
class Bench:
    """What is measured, and with what.

    Attributes:
        config: of the searches.
        placement: of the model.
        prompts: a row takes as many of them as it runs at once.
        encoder: the sentence encoder.
    """

    config: AlignerConfig
    placement: PlacementConfig
    prompts: list[Prompt]
    encoder: SentenceEncoder

    @property
    def in_float32(self) -> bool:
        """Whether the model computes in float32 here."""
        import torch

        chosen = self.config.model.dtype
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return chosen == "float32" or (chosen == "auto" and auto_dtype(device) is torch.float32)

    def load(self) -> tuple[Any, Any]:
        """Load the model anew: an engine changes the attention of the one it gets."""
        model = self.config.model
        return load_model(model.modelname, dtype=model.dtype, device_map=self.placement.device_map or None)

    def tree_aligner(self) -> Aligner:
        """Return an aligner on the tree cache, which is empty."""
        model, tokenizer = self.load()
        return self.aligner(open_loaded(model, tokenizer, self.placement), tokenizer)

    def aligner(self, engine: Engine, tokenizer: Any, *, eager: bool = False) -> Aligner:
        """Return what runs the searches and greedy answers on an engine."""
        return Aligner(self.config, engine, tokenizer, self.encoder, eager=eager)


async def run_all(
    bench: Bench,
    aligner: Aligner,
    answer: Callable[[PreparedPrompt], Awaitable[Answer]],
    count: int,
    width: int,
) -> list[Answer]:
    """Answer the first ``count`` prompts, at most ``width`` at once."""
    gate = asyncio.Semaphore(width)

    async def one(prompt: Prompt) -> Answer:
        async with gate:
            return await answer(aligner.prepare(prompt.id, prompt.question))

    return await asyncio.gather(*map(one, bench.prompts[:count]))


async def run_searches(bench: Bench, aligner: Aligner, count: int, width: int) -> dict[str, Any]:
    """Search the answers of ``count`` prompts, at most ``width`` at once.

    Returns:
        the row: see ``summarise``; of engines in this process also the shares of the time in the model, in the search
        (with batching and sampling), idle (waiting, for embeddings mostly) and, at the same time, in the embedding
        thread.
    """
    forget_peak_memory()
    await aligner.warm_up()
    embedded, before = getattr(bench.encoder, "seconds", 0.0), aligner.engine.stats()
    busy, started = time.thread_time(), time.perf_counter()
    answers = await run_all(bench, aligner, aligner.generate, count, width)
    wall, busy = time.perf_counter() - started, time.thread_time() - busy
    row, after = summarise(answers, wall), aligner.engine.stats()
    row["dtype"] = aligner.engine.dtype
    row["embedding_share"] = (getattr(bench.encoder, "seconds", 0.0) - embedded) / wall
    if after.passes:
        row["model_share"] = (after.model_seconds - before.model_seconds) / wall
        row["outside_model_share"] = 1 - row["model_share"]
        row["idle_share"] = min(row["outside_model_share"], max(0.0, 1 - busy / wall))
        row["search_share"] = row["outside_model_share"] - row["idle_share"]
        row["evictions"], row["passes"] = after.evictions, after.passes
    return row


def summarise(answers: Sequence[Answer], wall: float) -> dict[str, Any]:
    """Return totals of finished searches, and seconds per simulation and per committed token."""
    sums = total(answer.cost for answer in answers)
    tokens, distinct = sum(len(answer.tokens) for answer in answers), sums.get("tokens_distinct") or None
    return {
        "prompts": len(answers),
        "seconds": wall,
        "simulations": sums["simulations"],
        "committed_tokens": tokens,
        "seconds_per_simulation": wall / sums["simulations"],
        "seconds_per_committed_token": wall / tokens,
        "tokens_computed": sums["tokens_computed"],
        "distinct_tokens": distinct,
        "tokens_per_simulation": sums["tokens_computed"] / sums["simulations"],
        "computed_over_distinct": sums["tokens_computed"] / distinct if distinct else None,
        "forward_passes": sums["forward_passes"],
        "peak_memory_mib": peak_memory_mib(),
        "answers": [answer.text for answer in answers],
    }


async def run_greedy(bench: Bench, aligner: Aligner, count: int, width: int) -> dict[str, float]:
    """Answer ``count`` prompts by greedy decoding, ``width`` at once; return seconds and tokens per answer."""
    await aligner.warm_up()
    started = time.perf_counter()
    answers = await run_all(bench, aligner, aligner.generate_baseline, count, width)
    seconds = (time.perf_counter() - started) / len(answers)
    return {"seconds": seconds, "tokens": sum(len(answer.tokens) for answer in answers) / len(answers)}


def forget_peak_memory() -> None:
    """Free what earlier rows left, and have the kernel count the peak from here (Linux)."""
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


def machine() -> str:
    """Return how many CPU cores this process has, and what decides how fast they multiply."""
    found = sorted(cpu_features() & NUMBER_FEATURES)
    return f"{cpu_cores()} CPU cores, {' '.join(found) or 'features unknown'}"
