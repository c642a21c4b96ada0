"""``rain bench``: what RAIN costs, on the same prompts and with the same decisions as what it is compared to."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rain.aligner import open_encoder
from rain.bench.lengths import PUBLISHED_LENGTHS, with_prompts, with_questions
from rain.bench.machine import machine
from rain.bench.measure import (
    growth,
    measure_decisions,
    measure_engine,
    measure_greedy,
    measure_published,
    measure_rain,
    with_search,
)
from rain.bench.report import ratios, table
from rain.bench.rows import Bench
from rain.core.errors import RainError
from rain.data.datasets import load_prompts
from rain.engines.registry import PlacementConfig
from rain.engines.toy import ToyEncoder
from rain.models.random_weights import shape_names
from rain.results.files import check_writable, write_atomic
from rain.settings import make_settings
from rain.tasks import load

PAPER = {"max_simulations": 50, "extra_simulations": 15}
LONG_TOKENS = 64
"""Limit of the responses with prompts as published; the searches end earlier."""


class Step(NamedTuple):
    """One measurement: what it is, its share of the work (for the time left), and how it is made."""

    name: str
    weight: float
    measure: Callable[[], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain bench``."""
    add = parser.add_argument_group("what is measured").add_argument
    add("--modelname", default="smollm2", help="model (default: smollm2)")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="(default: auto)")
    add("--preset", default="none", choices=("none", "auto"), help="none: the paper's; auto: as rain run does")
    add("--concurrency", type=int, nargs="+", default=[1, 8], help="searches at once (default: 1 8)")
    add("--no-published", action="store_true", help="skip the baseline implementation, which is slow")
    add("--whole", type=int, default=1, help="whole responses to compare with greedy ones (0: none; default: 1)")
    add("--whole-tokens", type=int, default=20, help="maximum tokens of a whole response (default: 20)")
    add("--growth", action="store_true", help="also measure how cost grows with T, the response and the prompts")
    add("--json", type=Path, help="write the result here")
    add = parser.add_argument_group("the short searches, and other ways to run them").add_argument
    add("--simulations", type=int, default=8, help="simulations per commit (default: 8)")
    add("--new-tokens", type=int, default=7, help="tokens of a response (default: 7)")
    add("--long", type=int, default=8, help="first simulations with T = 50 and prompts as published (0: none)")
    add("--dataset", default="", help="HH prompts (default: the demo set)")
    add("--prompt-tokens", type=int, default=0, help="put neutral text of this length before each question")
    ahead = PlacementConfig().prefetch
    add("--prefetch", type=int, default=ahead, help=f"simulations computed ahead, in all (default: {ahead})")
    add("--encoder", default="minilm", help="sentence encoder (toy: a formula, for machines without any)")
    add("--engines", nargs="*", default=[], choices=("vllm", "http"), help="further engines as rows")
    add("--base-url", default="", help="of --engines http")
    add = parser.add_argument_group("models with random weights (docs/gpu.md)").add_argument
    add("--random-weights", default="", metavar="SHAPE", help=f"{', '.join(shape_names())}, or a JSON file")
    add("--bandwidth", type=float, default=3350, help="of the device's memory (GB/s; default: an H100's)")


def run(args: argparse.Namespace) -> int:
    """Measure and print.

    The JSON has settings, published, rain (by width), step_by_step (the same, nothing ahead), long, engines, plain,
    whole and ratio.
    """
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
    if args.bandwidth <= 0:
        raise RainError(f"--bandwidth is {args.bandwidth:g}; it must be above 0")
    options = {"modelname": args.random_weights or args.modelname, "dtype": args.dtype}
    options |= {"max_simulations": args.simulations, "extra_simulations": max(1, args.simulations // 3)}
    options |= {"max_new_tokens": args.new_tokens, "prefetch": args.prefetch}
    settings = make_settings(task, {**options, "preset": args.preset, "encoder": args.encoder})
    prompts = load_prompts(args.dataset or task.path(task.dataset), task.reader)
    encoder = ToyEncoder() if args.encoder == "toy" else open_encoder(settings.aligner)
    bench = Bench(settings.aligner, settings.placement, prompts, encoder, args.random_weights, 1e9 * args.bandwidth)
    return with_questions(bench, args.prompt_tokens) if args.prompt_tokens else bench


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for, and say how far it is."""
    groups = ("rain", "step_by_step", "engines", "plain", "long")
    result: dict[str, Any] = {"settings": bench.config.as_dict(), **{name: {} for name in groups}}
    result |= {"machine": machine(), "bandwidth_gb_s": args.bandwidth}
    for name, found in follow(steps(bench, args)):
        key, _, part = name.partition("/")
        if part:
            result[key][part] = found
        else:
            result[key] = {**result.get(key, {}), **found}
    result["ratio"] = ratios(result)
    if args.growth:
        for name, field in (("prompts", "seconds"), ("memory", "peak_memory_mib")):
            result["growth"][name] = [[row["prompts"], row[field]] for row in result["rain"].values()]
    return result


def steps(bench: Bench, args: argparse.Namespace) -> list[Step]:
    """Return the measurements in order; the weights are seconds on two CPU cores with the default model."""
    widths, t = args.concurrency, args.simulations
    short = 0.45 * (t + t)  # seconds of one short search alone
    whole = with_search(bench, max_new_tokens=args.whole_tokens, **PAPER)
    found = [] if args.no_published else [Step("published", 9 * short, partial(measure_published, bench))]
    if found and not bench.in_float32:
        found.append(Step("decisions", 5 * short, partial(measure_decisions, bench, widths)))
    found += [Step(f"rain/{w}", short * (1 + 0.5 * (w - 1)), partial(measure_rain, bench, w)) for w in widths]
    nothing_ahead = replace(bench, placement=replace(bench.placement, prefetch=0))
    found += [
        Step(f"step_by_step/{w}", short * (1 + 0.5 * (w - 1)), partial(measure_rain, nothing_ahead, w))
        for w in dict.fromkeys((widths[0], widths[-1]))
        if bench.placement.prefetch
    ]
    if args.long:
        found += long_steps(bench, args)
    for name in args.engines:
        found.append(Step(f"engines/{name}", short * sum(widths), partial(measure_engine, bench, name, args)))
    if args.whole:
        seconds = args.whole * args.whole_tokens
        found.append(Step("plain", 0.6 * seconds, partial(measure_greedy, whole, args.whole, widths)))
        width = min(args.whole, max(widths))
        found.append(Step("whole", 1.5 * seconds, partial(measure_rain, whole, width, args.whole)))
    if args.growth:
        found.append(Step("growth", 60.0 + 100 * 0.45, partial(growth, bench)))
    return found


def long_steps(bench: Bench, args: argparse.Namespace) -> list[Step]:
    """Return the first simulations of searches like the paper's: T = 50, prompts of the published length."""
    search = with_search(with_prompts(bench, *PUBLISHED_LENGTHS), max_new_tokens=LONG_TOKENS, **PAPER)
    long = replace(search, simulations=args.long)
    found = [] if args.no_published else [Step("long/published", 12.0 * args.long, partial(measure_published, long))]
    return found + [Step(f"long/{w}", 0.4 * args.long * w, partial(measure_rain, long, w)) for w in args.concurrency]


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
