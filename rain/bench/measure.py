"""What ``rain bench`` measures; each function makes rows (see ``rain.bench.rows``)."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rain.bench.lengths import with_prompts
from rain.bench.machine import free_memory
from rain.bench.rows import Bench, run_greedy, run_searches
from rain.core.config import RainConfig
from rain.engines.registry import open_engine


def with_search(bench: Bench, **changes: Any) -> Bench:
    """Return a benchmark with other constants of the search."""
    search: RainConfig = replace(bench.config.search, **changes)
    return replace(bench, config=replace(bench.config, search=search))


def measure_published(bench: Bench) -> dict[str, Any]:
    """Search the first prompt as the published code does: every leaf expanded at once, one model call after the other.

    What it keeps between calls is what the published code keeps: the last logits of each text, and the scores of texts.
    """
    from rain.engines.reference import ReferenceEngine

    model, tokenizer = bench.load()
    aligner = bench.aligner(ReferenceEngine(model, tokenizer, published=True), tokenizer, eager=True)
    return asyncio.run(run_searches(bench, aligner, 1, 1))


def measure_decisions(bench: Bench, widths: Sequence[int]) -> dict[str, Any]:
    """Return what the first prompt is answered in float32 in both ways; in fewer bits, rounding alone decides at times.

    The searches are short; their times do not count.
    """
    model = replace(bench.config.model, dtype="float32")
    exact = with_search(bench, max_simulations=4, extra_simulations=1, max_new_tokens=4)
    exact = replace(exact, config=replace(exact.config, model=model))
    rows = {str(width): measure_rain(exact, width) for width in widths}
    return {"published": measure_published(exact)["answers"], "rain": {w: row["answers"] for w, row in rows.items()}}


def measure_rain(bench: Bench, width: int, prompts: int = 0) -> dict[str, Any]:
    """Search the answers of ``prompts`` (0: ``width``) on the tree cache, ``width`` at once."""
    return asyncio.run(run_searches(bench, bench.tree_aligner(), prompts or width, width))


def measure_engine(bench: Bench, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Do the same on another engine; return a row for each width."""
    free_memory()  # the last engine's may be the same GPU's
    placement = replace(bench.placement, base_url=args.base_url if name == "http" else "")
    engine, tokenizer = open_engine(replace(bench.config.model, engine=name), placement)

    async def rows() -> dict[str, Any]:
        aligner = bench.aligner(engine, tokenizer, prefetch=bench.placement.prefetch)
        try:
            return {str(width): await run_searches(bench, aligner, width, width) for width in args.concurrency}
        finally:
            await engine.close()  # in the event loop that its connections belong to

    return asyncio.run(rows())


def measure_greedy(bench: Bench, answers: int, widths: Sequence[int]) -> dict[str, float]:
    """Answer the first prompts greedily, one by one, with and without a cache; and ``widths`` at once."""
    from rain.engines.reference import ReferenceEngine

    rows, (model, tokenizer) = dict[str, dict[str, float]](), bench.load()
    for name, kept in (("uncached", False), ("cached", True)):
        aligner = bench.aligner(ReferenceEngine(model, tokenizer, keep_cache=kept), tokenizer)
        rows[name] = asyncio.run(run_greedy(bench, aligner, answers, 1))
    del model, aligner  # they are gone before the next model is loaded
    for width in widths:
        rows[f"batched_{width}"] = asyncio.run(run_greedy(bench, bench.tree_aligner(), width, width))
    return {f"{name}_{key}": value for name, row in rows.items() for key, value in row.items()}


def growth(bench: Bench) -> dict[str, list[list[float]]]:
    """Return what one search costs by T, by length of the response and by length of the prompts.

    Returns:
        for "simulations" (per commit, at most), "length" (tokens of the response, at most) and "context" (tokens before
        the question and before the judged text) a list of [value, seconds, simulations].
    """
    budgets = {t: {"max_simulations": t, "extra_simulations": max(1, t // 3)} for t in (4, 8, 16, 32)}
    sweeps = {
        "simulations": {t: with_search(bench, **changes) for t, changes in budgets.items()},
        "length": {n: with_search(bench, max_new_tokens=n) for n in (7, 17, 37, 57)},
        "context": {n: with_prompts(with_search(bench, maxlen=n + 256), n, n) for n in (128, 256, 512, 1024, 2048)},
    }
    found: dict[str, list[list[float]]] = {}
    for name, benches in sweeps.items():
        rows = {value: measure_rain(each, 1) for value, each in benches.items()}
        found[name] = [[value, row["seconds"], row["simulations"]] for value, row in rows.items()]
    return found
