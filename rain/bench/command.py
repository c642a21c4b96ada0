"""``rain bench``: what RAIN costs, on the same prompts and with the same decisions as what it is compared to."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rain.aligner import open_encoder
from rain.bench.rows import Bench, PublishedSearch, run_plain, run_searches
from rain.core.errors import RainError
from rain.data.datasets import load_prompts
from rain.engines.reference import ReferenceEngine
from rain.engines.registry import open_engine
from rain.settings import make_settings
from rain.tasks import find_task

PAPER_RATIO = (3.78, 4.36)
PAPER_SIMULATIONS, PAPER_EXTRA = 50, 15


def measure_published(bench: Bench) -> dict[str, Any]:
    """Search the first prompt the published way."""
    say("the published way")
    engine = ReferenceEngine(*bench.load())
    runner = bench.runner(engine, engine.tokenizer)
    runner.search = PublishedSearch
    return asyncio.run(run_searches(bench, runner, 1, 1))


def measure_plain(bench: Bench, answers: int, widths: Sequence[int]) -> dict[str, float]:
    """Answer the first ``answers`` prompts plainly, one by one, with and without a cache; and ``widths`` at a time."""
    say("plain generation")
    model, tokenizer = bench.load()
    result: dict[str, float] = {}
    for name, kept in (("uncached", False), ("cached", True)):
        runner = bench.runner(ReferenceEngine(model, tokenizer, keep_cache=kept), tokenizer)
        result |= rename(asyncio.run(run_plain(bench, runner, answers, 1)), name)
    for width in widths:
        engine = bench.tree_engine()
        row = asyncio.run(run_plain(bench, bench.runner(engine, engine.tokenizer), width, width))
        result |= rename(row, f"batched_{width}")
    return result


def rename(row: dict[str, float], name: str) -> dict[str, float]:
    """Put a name in front of the keys."""
    return {f"{name}_{key}": value for key, value in row.items()}


def measure_rain(bench: Bench, width: int) -> dict[str, Any]:
    """Search the answers of ``width`` prompts side by side on the tree cache."""
    say(f"RAIN, {width} searches at a time")
    engine = bench.tree_engine()
    return asyncio.run(run_searches(bench, bench.runner(engine, engine.tokenizer), width, width))


def measure_engine(bench: Bench, name: str, base_url: str, widths: Sequence[int]) -> dict[str, Any]:
    """Do the same on another engine; return a row for each width."""
    say(f"RAIN on engine {name}")
    engine, tokenizer = open_engine(replace(bench.settings.engine, engine=name, base_url=base_url))

    async def rows() -> dict[str, Any]:
        runner = bench.runner(engine, tokenizer)
        try:
            return {str(width): await run_searches(bench, runner, width, width) for width in widths}
        finally:
            await engine.close()  # in the event loop that its connections belong to

    return asyncio.run(rows())


def ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Return speed-ups over the published way, whether the same text was decided on, and RAIN's time over plain's."""
    found: dict[str, Any] = {}
    if "published" in result:
        base = result["published"]
        for width, row in result["rain"].items():
            found[f"speedup_{width}"] = base["seconds_per_simulation"] / row["seconds_per_simulation"]
        found["same_decisions"] = all(row["answers"][0] == base["answers"][0] for row in result["rain"].values())
    if "whole" in result:
        each = result["whole"]["seconds"] / result["whole"]["prompts"]
        for name in ("uncached", "cached"):
            found[f"rain_over_plain_{name}"] = each / result["plain"][f"{name}_seconds"]
    return found


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
            row = measure_rain(replace(bench, settings=replace(bench.settings, rain=config)), 1)
            found[name].append([value, row["seconds"], row["simulations"]])
    return found


def say(text: str) -> None:
    """Tell what is being measured."""
    print(f"rain bench: {text} ...", file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    rows = [("published way", result["published"])] if "published" in result else []
    rows += [(f"RAIN, {width} at a time", row) for width, row in result["rain"].items()]
    rows += [(f"{name}, {width}", row) for name, found in result["engines"].items() for width, row in found.items()]
    rows += [("whole responses", result["whole"])] if "whole" in result else []
    lines = [f"{'':22}{'s/simulation':>14}{'s/token':>9}{'tokens/sim':>12}{'comp/dist':>11}{'outside':>9}{'MiB':>7}"]
    for name, row in rows:
        distinct, outside = row["computed_over_distinct"], row.get("outside_model_share")
        lines.append(
            f"{name:22}{row['seconds_per_simulation']:>14.3f}{row['seconds_per_committed_token']:>9.2f}"
            f"{row['tokens_per_simulation']:>12.0f}{f'{distinct:.3f}' if distinct else '':>11}"
            f"{f'{outside:.1%}' if outside is not None else '':>9}{row['peak_memory_mib']:>7.0f}"
        )
    lines += [f"plain {name}: {value:.2f}" for name, value in result["plain"].items()]
    lines += [
        f"{name}: {value if isinstance(value, bool) else f'{value:.2f}'}" for name, value in result["ratio"].items()
    ]
    lines.append(f"paper: RAIN takes {PAPER_RATIO[0]}-{PAPER_RATIO[1]} times the plain answer without a KV cache")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain bench``."""
    parser.add_argument("--modelname", default="smollm2", help="model (default: smollm2)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--preset", default="none", help="none: the paper's evaluation; auto: as the command does")
    parser.add_argument("--dataset", default="", help="HH prompts (default: the demo set)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 16], help="searches at a time")
    parser.add_argument("--simulations", type=int, default=12, help="simulations per commit in the short searches")
    parser.add_argument("--new-tokens", type=int, default=17, help="tokens of the short searches' responses")
    parser.add_argument("--whole", type=int, default=4, help="whole responses to compare with plain ones (0: none)")
    parser.add_argument("--whole-tokens", type=int, default=96, help="tokens of a whole response, at most")
    parser.add_argument("--growth", action="store_true", help="also measure how cost grows with T and response length")
    parser.add_argument("--engines", nargs="*", default=[], help="further engines as rows: vllm, http")
    parser.add_argument("--base-url", default="", help="of --engines http")
    parser.add_argument("--no-published", action="store_true", help="leave out the published way, which is slow")
    parser.add_argument("--json", type=Path, help="write the result here")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the JSON holds published, rain (by concurrency), engines, plain, whole and ratio."""
    result = measure(open_bench(args), args)
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def open_bench(args: argparse.Namespace) -> Bench:
    """Load prompts, settings and encoder."""
    task = find_task("hh")
    options = {"modelname": args.modelname, "dtype": args.dtype, "max_simulations": args.simulations}
    options |= {"extra_simulations": max(1, args.simulations // 3), "max_new_tokens": args.new_tokens}
    settings = make_settings(task, {**options, "preset": args.preset})
    prompts = load_prompts(args.dataset or task.path(task.dataset), task.reader)
    if max([*args.concurrency, args.whole]) > len(prompts):
        raise RainError(f"--concurrency and --whole go up to {len(prompts)}, the number of prompts")
    return Bench(settings, prompts, open_encoder(settings))


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    widths = args.concurrency
    rain = replace(bench.settings.rain, max_new_tokens=args.whole_tokens)
    rain = replace(rain, max_simulations=PAPER_SIMULATIONS, extra_simulations=PAPER_EXTRA)
    whole = replace(bench, settings=replace(bench.settings, rain=rain))
    result: dict[str, Any] = {"settings": bench.settings.as_dict()}
    if not args.no_published:
        result["published"] = measure_published(bench)
    result["rain"] = {str(width): measure_rain(bench, width) for width in widths}
    result["engines"] = {name: measure_engine(bench, name, args.base_url, widths) for name in args.engines}
    result["plain"] = measure_plain(whole, args.whole, widths) if args.whole else {}
    if args.whole:
        say("whole responses with the paper's budget")
        result["whole"] = measure_rain(whole, args.whole)
    result["ratio"] = ratios(result)
    if args.growth:
        result["growth"] = growth(bench, (args.simulations // 2, args.simulations, args.simulations * 2), (7, 17, 37))
        result["growth"]["prompts"] = [[row["prompts"], row["seconds"]] for row in result["rain"].values()]
    return result
