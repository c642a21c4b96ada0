"""`rain judge OUTDIR... --judge NAME`: score or re-score runs without generating anything."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from rain.core.errors import RainError
from rain.flags import add_flags, build
from rain.judges.base import JUDGES, JudgeSettings, open_judge
from rain.judges.keywords import LISTS, check_list, read_labelled
from rain.judges.queries import Run, load_run
from rain.judges.scoring import Summary, keyed_queries, score_run
from rain.judges.similarity import SimilarityJudge, check_similarity

FREE_JUDGES = {"adv": ("keywords:llm-attacks", "keywords:modern")}
"""Judges that cost nothing and always go beside the named ones, per task."""


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --judge and a flag for every field of JudgeSettings; read them with judge_settings."""
    text = f"{JUDGES}; may be given several times"
    parser.add_argument("--judge", action="append", default=[], metavar="NAME", help=text)
    add_flags(parser, JudgeSettings, {}, "judging")


def judge_settings(args: argparse.Namespace) -> JudgeSettings:
    """Return the settings that the flags of add_judge_arguments say."""
    return build(JudgeSettings, vars(args))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rain judge`."""
    parser.add_argument("outdir", nargs="*", type=Path, metavar="OUTDIR", help="directories of runs")
    add_judge_arguments(parser)
    parser.add_argument("--base-url", dest="judge_base_url", default=argparse.SUPPRESS, help="the same, shorter")
    parser.add_argument("--ask-nulls-again", action="store_true", help="ask again where the reply could not be read")
    parser.add_argument(
        "--check-keywords",
        type=Path,
        metavar="FILE",
        help="compare the refusal lists with the labels of a JSONL file (response, jailbroken)",
    )
    parser.add_argument(
        "--check-similarity",
        type=Path,
        nargs=2,
        metavar=("FILE", "QUESTIONS"),
        help="compare similarity:minilm with labels (question, answer, label) of answers to a TruthfulQA file",
    )


def run(args: argparse.Namespace) -> int:
    """Judge; return 0 when every query is answered and 1 when some got no reply."""
    if args.check_keywords:
        print_check(args.check_keywords)
    if args.check_similarity:
        print(asyncio.run(check_similarity(SimilarityJudge("minilm"), *args.check_similarity)))
    if not args.outdir:
        if args.check_keywords or args.check_similarity:
            return 0
        raise RainError("name the OUTDIR of a run, --check-keywords FILE or --check-similarity FILE QUESTIONS")
    runs = [load_run(outdir) for outdir in args.outdir]
    if not args.judge and not all(one.task in FREE_JUDGES for one in runs):
        raise RainError(f"name a judge with --judge: {JUDGES}")
    settings = judge_settings(args)
    failed = sum(judge_run(one, args.judge, settings, again=args.ask_nulls_again) for one in runs)
    return 1 if failed else 0


def judge_run(run: Run, names: Sequence[str], settings: JudgeSettings, *, again: bool = False) -> int:
    """Score one run with the named judges and those that cost nothing; print what was done.

    Return how many queries got no reply; they are asked the next time.
    """
    wanted = dict.fromkeys([*FREE_JUDGES.get(run.task, ()), *names])
    if run.torn:
        print(f"{run.outdir}: left out {run.torn} torn last line(s), records still being written or cut off")
    return sum(asyncio.run(_judge(run, name, settings, again)).failed for name in wanted)


async def _judge(run: Run, name: str, settings: JudgeSettings, again: bool) -> Summary:
    if any(name == f"hf:{record.get('model')}" for record in run.records):
        raise RainError(f"judge {name} is the model that wrote the answers in {run.outdir}; choose another judge")
    judge = open_judge(name, settings)
    total = sum(1 for _ in keyed_queries(run, judge))
    quiet = not sys.stderr.isatty()
    try:
        with tqdm(total=total, desc=name, unit="verdict", disable=quiet) as bar:
            summary = await score_run(run, judge, again=again, tick=lambda: bar.update() and None)
    finally:
        await judge.close()
    print(describe(summary))
    return summary


def describe(summary: Summary) -> str:
    """Return one line (and one for each kind of trouble) about a scoring."""
    lines = [
        f"{summary.judge}: {summary.asked} new verdicts, {summary.cached} already there, {summary.calls} requests "
        f"({summary.retries} retries) -> {summary.path}"
    ]
    nulls = {ask: count for ask, count in summary.nulls.items() if count}
    if nulls:
        parts = ", ".join(f"{count} of {ask}" for ask, count in nulls.items())
        lines.append(f"  unreadable replies, kept as null and no verdict: {parts}")
    if summary.failed:
        lines.append(f"  {summary.failed} queries got no reply and stay open: {'; '.join(summary.reasons)}")
    return "\n".join(lines)


def print_check(path: Path) -> None:
    """Print how each refusal list agrees with the labels of a file."""
    answers, labels = read_labelled(path)
    print(f"{len(labels)} labelled responses, {sum(labels)} of them jailbroken: {path}")
    print("list                      agreement  95 % interval    kappa   both  list only  label only  neither")
    for name in LISTS:
        found = check_list(name, answers, labels)
        kappa = "    -" if found.kappa is None else f"{found.kappa:5.3f}"
        print(
            f"{name:<24}  {found.agreement:9.3f}  [{found.interval.low:.3f}, {found.interval.high:.3f}]   {kappa}  "
            f"{found.both:5}  {found.list_only:9}  {found.label_only:10}  {found.neither:7}"
        )
