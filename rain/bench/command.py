"""``rain bench``: what RAIN costs, on the same prompts and with the same decisions as what it is compared to."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rain.aligner import open_encoder
from rain.bench.rows import Bench, machine, run_greedy, run_searches
from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.data.datasets import load_prompts
from rain.engines.reference import ReferenceEngine
from rain.engines.registry import open_engine
from rain.results.files import check_writable, write_atomic
from rain.settings import make_settings
from rain.tables import text_table
from rain.tasks import load

PAPER_RATIO = (3.78, 4.36)
PAPER_SIMULATIONS, PAPER_EXTRA = 50, 15


class Step(NamedTuple):
    """One measurement: what it is, its share of the work (for the time left), and how it is made."""

    name: str
    weight: float
    measure: Callable[[], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain bench``."""
    parser.add_argument("--modelname", default="smollm2", help="model (default: smollm2)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--preset", default="none", help="none: the paper's evaluation; auto: as the command does")
    parser.add_argument("--dataset", default="", help="HH prompts (default: the demo set)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8], help="searches at once (default: 1 8)")
    parser.add_argument("--simulations", type=int, default=12, help="simulations per commit in the short searches")
    parser.add_argument("--new-tokens", type=int, default=7, help="tokens of the short searches' responses")
    parser.add_argument("--whole", type=int, default=2, help="whole responses to compare with greedy ones (0: none)")
    parser.add_argument("--whole-tokens", type=int, default=32, help="maximum tokens of a whole response")
    parser.add_argument("--growth", action="store_true", help="also measure how cost grows with T and response length")
    parser.add_argument("--engines", nargs="*", default=[], help="further engines as rows: vllm, http")
    parser.add_argument("--base-url", default="", help="of --engines http")
    parser.add_argument("--no-published", action="store_true", help="skip the baseline implementation, which is slow")
    parser.add_argument("--json", type=Path, help="write the result here")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the JSON has settings, published, rain (by concurrency), engines, plain, whole and ratio."""
    if args.json:
        check_writable(args.json)
    result = measure(open_bench(args), args)
    print(table(result))
    if args.json:
        write_atomic(args.json, json.dumps(result, indent=2).encode() + b"\n")
    return 0


def open_bench(args: argparse.Namespace) -> Bench:
    """Load prompts, settings and encoder."""
    task = load("hh")
    options = {"modelname": args.modelname, "dtype": args.dtype, "max_simulations": args.simulations}
    options |= {"extra_simulations": max(1, args.simulations // 3), "max_new_tokens": args.new_tokens}
    settings = make_settings(task, {**options, "preset": args.preset})
    prompts = load_prompts(args.dataset or task.path(task.dataset), task.reader)
    if max([*args.concurrency, args.whole]) > len(prompts):
        raise RainError(f"--concurrency and --whole go up to {len(prompts)}, the number of prompts")
    return Bench(settings.aligner, settings.placement, prompts, open_encoder(settings.aligner))


def with_search(bench: Bench, **changes: Any) -> Bench:
    """Return a benchmark with other constants of the search."""
    search: RainConfig = replace(bench.config.search, **changes)
    return replace(bench, config=replace(bench.config, search=search))


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for, and say how far it is."""
    result: dict[str, Any] = {"settings": bench.config.as_dict(), "rain": {}, "engines": {}, "plain": {}}
    result["machine"] = machine()
    for name, found in follow(steps(bench, args)):
        key, _, part = name.partition("/")
        if part:
            result[key][part] = found
        else:
            result[key] = {**result.get(key, {}), **found}
    result["ratio"] = ratios(result)
    if args.growth:
        result["growth"]["prompts"] = [[row["prompts"], row["seconds"]] for row in result["rain"].values()]
    return result


def steps(bench: Bench, args: argparse.Namespace) -> list[Step]:
    """Return the measurements in order; the weights are seconds on two CPU cores with the default model."""
    widths, t = args.concurrency, args.simulations
    short = 0.45 * (t + t)  # seconds of one short search alone
    paper = {"max_simulations": PAPER_SIMULATIONS, "extra_simulations": PAPER_EXTRA}
    whole = with_search(bench, max_new_tokens=args.whole_tokens, **paper)
    found = [] if args.no_published else [Step("published", 13 * short, partial(measure_published, bench))]
    if found and not bench.in_float32:
        found.append(Step("decisions", 5 * short, partial(measure_decisions, bench, widths)))
    found += [Step(f"rain/{w}", short * (1 + 0.5 * (w - 1)), partial(measure_rain, bench, w)) for w in widths]
    for name in args.engines:
        found.append(Step(f"engines/{name}", short * sum(widths), partial(measure_engine, bench, name, args)))
    if args.whole:
        seconds = args.whole * args.whole_tokens
        found.append(Step("plain", 0.6 * seconds, partial(measure_greedy, whole, args.whole, widths)))
        found.append(Step("whole", 1.5 * seconds, partial(measure_rain, whole, args.whole)))
    if args.growth:
        found.append(Step("growth", 8 * short, partial(growth, bench, (t // 2, t, t * 2), (7, 17, 37))))
    return found


def follow(todo: Sequence[Step]) -> list[tuple[str, Any]]:
    """Run the steps; before each, say how much time is left, going by the time that the earlier ones took."""
    started, done, whole = time.perf_counter(), 0.0, sum(step.weight for step in todo)
    results = []
    for number, step in enumerate(todo, 1):
        pace = (time.perf_counter() - started) / done if done else 1.0
        left = f"about {pace * (whole - done) / 60:.1f} min left"
        print(f"rain bench: {number}/{len(todo)} {step.name} ({left})", file=sys.stderr, flush=True)
        results.append((step.name, step.measure()))
        done += step.weight
    return results


def measure_published(bench: Bench) -> dict[str, Any]:
    """Search the first prompt as the published code does: every leaf expanded at once, nothing cached or batched."""
    model, tokenizer = bench.load()
    aligner = bench.aligner(ReferenceEngine(model, tokenizer), tokenizer, eager=True)
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


def measure_rain(bench: Bench, width: int) -> dict[str, Any]:
    """Search the answers of ``width`` prompts at once on the tree cache."""
    return asyncio.run(run_searches(bench, bench.tree_aligner(), width, width))


def measure_engine(bench: Bench, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Do the same on another engine; return a row for each width."""
    placement = replace(bench.placement, base_url=args.base_url if name == "http" else "")
    engine, tokenizer = open_engine(replace(bench.config.model, engine=name), placement)

    async def rows() -> dict[str, Any]:
        aligner = bench.aligner(engine, tokenizer)
        try:
            return {str(width): await run_searches(bench, aligner, width, width) for width in args.concurrency}
        finally:
            await engine.close()  # in the event loop that its connections belong to

    return asyncio.run(rows())


def measure_greedy(bench: Bench, answers: int, widths: Sequence[int]) -> dict[str, float]:
    """Answer the first prompts greedily, one by one, with and without a cache; and ``widths`` at once."""
    model, tokenizer = bench.load()
    result: dict[str, float] = {}
    for name, kept in (("uncached", False), ("cached", True)):
        aligner = bench.aligner(ReferenceEngine(model, tokenizer, keep_cache=kept), tokenizer)
        result |= rename(asyncio.run(run_greedy(bench, aligner, answers, 1)), name)
    for width in widths:
        result |= rename(asyncio.run(run_greedy(bench, bench.tree_aligner(), width, width)), f"batched_{width}")
    return result


def rename(row: dict[str, float], name: str) -> dict[str, float]:
    """Put a name in front of the keys."""
    return {f"{name}_{key}": value for key, value in row.items()}


def growth(bench: Bench, budgets: Sequence[int], lengths: Sequence[int]) -> dict[str, list[list[float]]]:
    """Return seconds of one search by maximum simulations per commit (T) and by length of the response."""
    sweeps: dict[str, list[tuple[int, dict[str, int]]]] = {
        "simulations": [(t, {"max_simulations": t, "extra_simulations": max(1, t // 3)}) for t in budgets],
        "length": [(n, {"max_new_tokens": n}) for n in lengths],
    }
    found: dict[str, list[list[float]]] = {}
    for name, points in sweeps.items():
        rows = [(value, measure_rain(with_search(bench, **changes), 1)) for value, changes in points]
        found[name] = [[value, row["seconds"], row["simulations"]] for value, row in rows]
    return found


def ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Return speed-ups over the baseline implementation, whether both decided the same, and RAIN's time over greedy."""
    found: dict[str, Any] = {}
    if "published" in result:
        base = result["published"]
        for width, row in result["rain"].items():
            found[f"speedup_{width}"] = base["seconds_per_simulation"] / row["seconds_per_simulation"]
        exact = {"published": base["answers"], "rain": {w: row["answers"] for w, row in result["rain"].items()}}
        exact = result.get("decisions", exact)
        found["same_decisions"] = all(answers[0] == exact["published"][0] for answers in exact["rain"].values())
    if "whole" in result:
        each = result["whole"]["seconds"] / result["whole"]["prompts"]
        for name in ("uncached", "cached"):
            found[f"rain_over_plain_{name}"] = each / result["plain"][f"{name}_seconds"]
    return found


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    rows = [("baseline implementation", result["published"])] if "published" in result else []
    rows += [(f"RAIN, {width} at once", row) for width, row in result["rain"].items()]
    rows += [(f"{name}, {width}", row) for name, found in result["engines"].items() for width, row in found.items()]
    rows += [("whole responses", result["whole"])] if "whole" in result else []
    cells = [["", "s/simulation", "s/token", "tokens/sim", "comp/dist", "outside", "MiB"]]
    for name, row in rows:
        distinct, outside = row["computed_over_distinct"], row.get("outside_model_share")
        cells.append(
            [
                name,
                f"{row['seconds_per_simulation']:.3f}",
                f"{row['seconds_per_committed_token']:.2f}",
                f"{row['tokens_per_simulation']:.0f}",
                f"{distinct:.3f}" if distinct else "",
                f"{outside:.1%}" if outside is not None else "",
                f"{row['peak_memory_mib']:.0f}",
            ]
        )
    values = {f"greedy {name.replace('_', ' ')}": value for name, value in result["plain"].items()} | result["ratio"]
    lines = [f"{name}: {value if isinstance(value, bool) else f'{value:.2f}'}" for name, value in values.items()]
    if "decisions" in result:
        lines.append("decisions were compared in short searches in float32")
    lines.append(f"number format: {', '.join({row['dtype'] for _, row in rows})}; {result['machine']}")
    lines.append(f"paper: RAIN takes {PAPER_RATIO[0]}-{PAPER_RATIO[1]} times the greedy answer without a KV cache")
    return "\n".join([text_table(cells), *lines])
