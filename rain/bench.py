"""What RAIN costs, measured in one run: the published way, this engine, and plain generation (``rain bench``)."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rain.datasets import Prompt, load_prompts
from rain.engines.base import Engine
from rain.engines.hf import HfEngine
from rain.engines.reference import ReferenceEngine
from rain.errors import RainError
from rain.records import Record
from rain.runner import Runner, open_encoder
from rain.settings import Settings, make_settings
from rain.tasks import find_task
from rain.text import TextsEncoder

PAPER_RATIO = (3.78, 4.36)


@dataclass
class Bench:
    """A loaded model, and how it is measured.

    Attributes:
        settings: of the short searches that all rows share.
        prompts: rows take as many of them as they run at a time.
        encoder: the sentence encoder.
    """

    settings: Settings
    prompts: list[Prompt]
    encoder: TextsEncoder

    def load(self) -> tuple[Any, Any]:
        """Load the model anew: an engine changes the attention of the one it gets."""
        from rain.models import load_model

        engine = self.settings.engine
        return load_model(engine.modelname, dtype=engine.dtype, device_map=engine.device_map or None)

    def tree_engine(self) -> HfEngine:
        """Return a fresh engine with an empty cache."""
        engine = self.settings.engine
        return HfEngine(*self.load(), max_batch_tokens=engine.max_batch_tokens, cache_tokens=engine.cache_tokens)


async def run_searches(bench: Bench, engine: Engine, tokenizer: Any, count: int, width: int) -> dict[str, Any]:
    """Run the short searches of the first ``count`` prompts, ``width`` at a time; return the row of the table."""
    runner = Runner(bench.settings, engine, tokenizer, bench.encoder)
    await runner.warm_up()
    embedded = getattr(bench.encoder, "seconds", 0.0)
    model_before = engine.shared.scheduler.model_seconds if isinstance(engine, HfEngine) else 0.0
    started = time.perf_counter()
    gate = asyncio.Semaphore(width)

    async def one(prompt: Prompt) -> Record:
        async with gate:
            return await runner.searched(prompt)

    results = await asyncio.gather(*(one(prompt) for prompt in bench.prompts[:count]))
    wall = time.perf_counter() - started
    row = summarise(results, wall)
    if isinstance(engine, HfEngine):
        model = engine.shared.scheduler.model_seconds - model_before
        row["outside_model_share"] = 1 - model / wall
        row["embedding_share"] = (getattr(bench.encoder, "seconds", 0.0) - embedded) / wall
        row["evictions"] = engine.shared.scheduler.evictions
        row["passes"] = engine.shared.scheduler.steps
    return row


def summarise(results: Sequence[Record], wall: float) -> dict[str, Any]:
    """Return totals and per-simulation figures of finished searches."""
    totals = {name: sum(result["cost"][name] for result in results) for name in results[0]["cost"]}
    committed = sum(len(result["moves"]) for result in results)
    return {
        "prompts": len(results),
        "seconds": wall,
        "simulations": totals["simulations"],
        "seconds_per_simulation": wall / totals["simulations"],
        "seconds_per_committed_set": wall / committed,
        "tokens_computed": totals["tokens_computed"],
        "distinct_tokens": totals["tokens_distinct"] or None,
        "tokens_per_simulation": totals["tokens_computed"] / totals["simulations"],
        "computed_over_distinct": totals["tokens_computed"] / totals["tokens_distinct"]
        if totals["tokens_distinct"]
        else None,
        "forward_passes": totals["forward_passes"],
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "answers": [result["text"] for result in results],
    }


async def run_plain(bench: Bench, engine: Engine, tokenizer: Any, count: int, width: int) -> dict[str, float]:
    """Answer ``count`` prompts by greedy decoding, ``width`` at a time; return seconds and tokens per answer."""
    runner = Runner(bench.settings, engine, tokenizer, bench.encoder)
    await runner.warm_up()
    gate = asyncio.Semaphore(width)

    async def one(prompt: Prompt) -> Record:
        async with gate:
            return await runner.answered(prompt)

    started = time.perf_counter()
    prompts = bench.prompts[:count]
    answers = await asyncio.gather(*(one(prompt) for prompt in prompts))
    seconds = (time.perf_counter() - started) / len(prompts)
    return {"seconds": seconds, "tokens": sum(answer["length"] for answer in answers) / len(prompts)}


def measure(bench: Bench, widths: Sequence[int], whole: int, answers: int) -> dict[str, Any]:
    """Measure all rows; see ``run`` for the shape of the result.

    Plain answers without batching are those of the first ``answers`` prompts, of ``whole`` tokens at most: the prompts
    that whole responses of RAIN are compared on.
    """
    result: dict[str, Any] = {"settings": bench.settings.as_dict(), "rain": {}, "plain": {}, "ratio": {}}
    model, tokenizer = bench.load()
    say("the published way")
    reference = ReferenceEngine(model, tokenizer)
    result["published"] = asyncio.run(run_searches(bench, reference, tokenizer, 1, 1))
    plain = replace(bench, settings=replace(bench.settings, rain=replace(bench.settings.rain, max_new_tokens=whole)))
    say("plain generation, without and with a KV cache")
    for name, engine in (
        ("uncached", ReferenceEngine(model, tokenizer, keep_cache=False)),
        ("cached", ReferenceEngine(model, tokenizer)),
    ):
        result["plain"] |= rename(asyncio.run(run_plain(plain, engine, tokenizer, answers, 1)), name)
    for width in widths:
        say(f"RAIN, {width} searches at a time")
        result["rain"][str(width)] = asyncio.run(run_searches(bench, bench.tree_engine(), tokenizer, width, width))
        batched = asyncio.run(run_plain(plain, bench.tree_engine(), tokenizer, width, width))
        result["plain"] |= rename(batched, f"batched_{width}")
    result["ratio"] = ratios(result)
    return result


def rename(row: dict[str, float], name: str) -> dict[str, float]:
    """Put a name in front of the keys."""
    return {f"{name}_{key}": value for key, value in row.items()}


def ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Return speed-ups over the published way and whether the same text was decided on."""
    base = result["published"]
    found: dict[str, Any] = {
        f"speedup_{width}": base["seconds_per_simulation"] / row["seconds_per_simulation"]
        for width, row in result["rain"].items()
    }
    found["same_decisions"] = all(row["answers"][0] == base["answers"][0] for row in result["rain"].values())
    return found


async def whole_responses(bench: Bench, width: int) -> Record:
    """Run whole searches of ``width`` prompts with the paper's budget, side by side; return mean seconds."""
    engine = bench.tree_engine()
    return await run_searches(bench, engine, engine.tokenizer, width, width)


def growth(bench: Bench, budgets: Sequence[int], lengths: Sequence[int]) -> dict[str, list[list[float]]]:
    """Return seconds of one search by budget (simulations per commit, at most) and by length of the response."""
    rain = bench.settings.rain
    sweeps = {
        "simulations": [(t, replace(rain, max_simulations=t, extra_simulations=max(1, t // 3))) for t in budgets],
        "length": [(n, replace(rain, max_new_tokens=n)) for n in lengths],
    }
    found: dict[str, list[list[float]]] = {}
    for name, points in sweeps.items():
        say(f"how cost grows with {name}")
        found[name] = []
        for value, config in points:
            varied = replace(bench, settings=replace(bench.settings, rain=config))
            row = asyncio.run(whole_responses(varied, 1))
            found[name].append([value, row["seconds"], row["simulations"]])
    return found


def say(text: str) -> None:
    """Tell what is being measured."""
    print(f"rain bench: {text} ...", file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    rows = [("published way", result["published"])] + [
        (f"RAIN, {width} at a time", row) for width, row in result["rain"].items()
    ]
    lines = [f"{'':22}{'s/simulation':>14}{'s/commit':>10}{'tokens/sim':>12}{'comp/dist':>11}{'outside':>9}{'MiB':>7}"]
    for name, row in rows:
        distinct, outside = row["computed_over_distinct"], row.get("outside_model_share")
        lines.append(
            f"{name:22}{row['seconds_per_simulation']:>14.3f}{row['seconds_per_committed_set']:>10.2f}"
            f"{row['tokens_per_simulation']:>12.0f}{f'{distinct:.3f}' if distinct else '':>11}"
            f"{f'{outside:.1%}' if outside is not None else '':>9}{row['peak_memory_mib']:>7.0f}"
        )
    lines += [f"{name}: {value:.2f}" for name, value in result["plain"].items()]
    lines += [
        f"{name}: {value if isinstance(value, bool) else f'{value:.2f}'}" for name, value in result["ratio"].items()
    ]
    lines.append(f"paper: RAIN takes {PAPER_RATIO[0]}-{PAPER_RATIO[1]} times the plain answer without a KV cache")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain bench``."""
    parser.add_argument("--modelname", default="smollm2", help="model (default: smollm2)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 16], help="searches at a time")
    parser.add_argument("--simulations", type=int, default=12, help="simulations per commit in the short searches")
    parser.add_argument("--new-tokens", type=int, default=17, help="tokens of the short searches' responses")
    parser.add_argument("--whole", type=int, default=2, help="whole responses to compare with plain ones (0: none)")
    parser.add_argument("--whole-tokens", type=int, default=96, help="tokens of a whole response, at most")
    parser.add_argument("--growth", action="store_true", help="also measure how cost grows with T and response length")
    parser.add_argument("--json", type=Path, help="write the result here")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the JSON holds published, rain (by concurrency), plain, whole and ratio."""
    short = {
        "modelname": args.modelname,
        "dtype": args.dtype,
        "max_simulations": args.simulations,
        "extra_simulations": max(1, args.simulations // 3),
        "max_new_tokens": args.new_tokens,
        "preset": "none",
    }
    task = find_task("hh")
    settings = make_settings(task, short)
    prompts = load_prompts(task.path(task.dataset), task.reader)
    wanted = max([*args.concurrency, args.whole])
    if wanted > len(prompts):
        raise RainError(f"--concurrency and --whole go up to {len(prompts)}, the number of prompts in {task.dataset}")
    bench = Bench(settings, prompts, open_encoder(settings))
    result = measure(bench, args.concurrency, args.whole_tokens, max(1, args.whole))
    if args.whole:
        say(f"{args.whole} whole responses with the paper's budget")
        full = make_settings(task, {**short, **PAPER_BUDGET, "max_new_tokens": args.whole_tokens})
        row = asyncio.run(whole_responses(replace(bench, settings=full), args.whole))
        result["whole"] = row
        for name in ("uncached", "cached"):
            each = row["seconds"] / row["prompts"]
            result["ratio"][f"rain_over_plain_{name}"] = each / result["plain"][f"{name}_seconds"]
    if args.growth:
        result["growth"] = growth(bench, (args.simulations // 2, args.simulations, args.simulations * 2), (7, 17, 37))
        result["growth"]["prompts"] = [[row["prompts"], row["seconds"]] for row in result["rain"].values()]
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


PAPER_BUDGET = {"max_simulations": 50, "extra_simulations": 15}
