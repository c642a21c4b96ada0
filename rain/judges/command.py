"""`rain judge OUTDIR... --judge NAME`: score or re-score runs without generating anything."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from rain.core.errors import RainError
from rain.flags import add_flags, build
from rain.judges.base import Judge, JudgeConfig
from rain.judges.check import HEAD, SINGLE_CRITERIA, check_judge, load_queries
from rain.judges.keywords import LISTS, NOTE
from rain.judges.queries import Run, load_run
from rain.judges.registry import JUDGES, open_judge
from rain.judges.scoring import Summary, check_suits, count_queries, score_run
from rain.models.loading import load_tokenizer, resolve
from rain.progress import progress_bar
from rain.tables import text_table
from rain.terminal import printable, say

FREE_JUDGES = {"adv": ("keywords:llm-attacks", "keywords:modern")}
"""Judges that cost nothing and are always asked as well, by task."""

LOADED = ("hf", "similarity", "fluency")
"""Kinds of judges whose name names a model, which is loaded for the first query."""

T = TypeVar("T")


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --judge and a flag for every field of JudgeConfig."""
    text = f"{JUDGES}; may be given several times (LIST: {', '.join(one.name for one in LISTS)}; it {NOTE})"
    parser.add_argument("--judge", action="append", default=[], metavar="NAME", help=text)
    add_flags(parser, JudgeConfig, {}, "judging")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rain judge`."""
    parser.add_argument("outdir", nargs="*", type=Path, metavar="OUTDIR", help="directories of runs")
    add_judge_arguments(parser)
    text = "short for --judge-base-url"
    parser.add_argument("--base-url", dest="judge_base_url", default=argparse.SUPPRESS, help=text)
    parser.add_argument("--ask-nulls-again", action="store_true", help="ask again where the reply could not be read")
    text = "compare the judges with people: texts (question, response) with a label, or its opposite, jailbroken"
    parser.add_argument("--check", type=Path, metavar="FILE", help=text)
    text = "what the labels of --check mean, for judges that decide several things"
    parser.add_argument("--criterion", choices=SINGLE_CRITERIA, default="", help=text)
    text = "a TruthfulQA file with reference answers to the questions of --check"
    parser.add_argument("--questions", type=Path, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> int:
    """Judge; return 0 if every query is answered and 1 if some got no reply."""
    config = build(JudgeConfig, vars(args))
    for name in ("criterion", "questions"):
        if getattr(args, name) and not args.check:
            raise RainError(f"--{name} is for --check; leave it out")
    if args.check and args.ask_nulls_again:
        raise RainError("--ask-nulls-again is for runs, not for --check; leave it out")
    if args.check and args.outdir:
        raise RainError(f"--check is about labelled texts, not about runs; leave {args.outdir[0]} out")
    if args.check:
        return print_check(args, config)
    if not args.outdir:
        raise RainError("name the OUTDIR of a run, or give --check FILE")
    runs = [load_run(outdir) for outdir in dict.fromkeys(args.outdir)]
    if not args.judge and not all(one.task in FREE_JUDGES for one in runs):
        raise RainError(f"name a judge with --judge: {JUDGES}")
    for one in runs:
        for name in args.judge:
            try_judge(name, config, one.task, one.models)
    failed = sum(judge_run(one, args.judge, config, again=args.ask_nulls_again) for one in runs)
    return 1 if failed else 0


def try_judge(name: str, config: JudgeConfig, task: str, writers: Collection[str]) -> None:
    """Open a judge, as far as that is quick: a wrong name or a missing key must not wait for the end of other work.

    Raises:
        RainError: it cannot judge answers of these models in this task.
    """
    kind, _, what = name.partition(":")

    async def look(judge: Judge) -> None:
        check_suits(judge, task, writers)

    dry = kind == "hf" and config.judge_engine == "toy"
    if kind in LOADED and not dry and what and what not in writers and isinstance(resolve(what), str):
        load_tokenizer(what)
    with_judge(name, config, look)


def judge_run(run: Run, names: Sequence[str], config: JudgeConfig, *, again: bool = False) -> int:
    """Score one run with the named judges and those that cost nothing; print what was done.

    Return how many queries got no reply; they are asked the next time.
    """
    if run.torn:
        say(f"{run.outdir}: ignored {run.torn} incomplete last line(s)")
    if run.left_out:
        say(f"{run.outdir}: left out {run.left_out} record(s) of prompts that are no longer in the data set")
    failed, free = 0, FREE_JUDGES.get(run.task, ())
    if unasked := [name for name in free if name not in names]:
        say(f"{run.outdir}: {run.task} is also scored by {' and '.join(unasked)}, which cost nothing")
    for name in dict.fromkeys([*free, *names]):
        summary = with_judge(name, config, partial(score_with_bar, run, again))
        say(describe(summary))
        failed += summary.failed
    return failed


def with_judge(name: str, config: JudgeConfig, work: Callable[[Judge], Awaitable[T]]) -> T:
    """Open a judge, let it work in an event loop of its own, and close it."""

    async def go() -> T:
        judge = open_judge(name, config)
        try:
            return await work(judge)
        finally:
            await judge.close()

    return asyncio.run(go())


async def score_with_bar(run: Run, again: bool, judge: Judge) -> Summary:
    """Score a run, with a progress bar."""
    total = count_queries(run, judge)
    with progress_bar(total, "verdict", desc=f"{judge.name}: ") as bar:
        return await score_run(run, judge, again=again, tick=bar.update)


def describe(summary: Summary) -> str:
    """Return one line about a scoring, what readers of the verdicts must know, and the lines of `troubles`."""
    line = f"{summary.judge}: {summary.asked} new verdicts, {summary.cached} cached, {summary.calls} requests "
    notes = [f"  {summary.judge}: {summary.note}"] if summary.note else []
    return printable("\n".join([f"{line}({summary.retries} retries) -> {summary.path}", *notes, *troubles(summary)]))


def troubles(summary: Summary) -> list[str]:
    """Return one line for each kind of query that has no verdict."""
    lines = []
    if nulls := ", ".join(f"{count} of {criterion}" for criterion, count in summary.nulls.items() if count):
        lines.append(f"  {summary.judge}: unreadable replies, kept as null: {nulls}")
    if summary.failed:
        reasons = "; ".join(summary.reasons)
        lines.append(f"  {summary.judge}: {summary.failed} queries got no reply and are still pending: {reasons}")
    return lines


def print_check(args: argparse.Namespace, config: JudgeConfig) -> int:
    """Print how the named judges agree with labels; return 1 if some queries got no reply."""
    if not args.judge:
        raise RainError(f"name a judge with --judge: {JUDGES}")
    labels = load_queries(args.check, args.questions)
    rows: list[Sequence[str]] = [HEAD]
    summaries = [Summary(name, args.check) for name in args.judge]
    for one in summaries:
        check = partial(check_judge, labels=labels, wanted=args.criterion, summary=one)
        rows.append(with_judge(one.judge, config, check))
    say(f"{len(labels)} labelled texts, {sum(labels.values())} of them good: {args.check}")
    say(printable("\n".join([text_table(rows, "<<>"), *(line for one in summaries for line in troubles(one))])))
    return int(any(one.failed for one in summaries))
