"""`rain report OUTDIR...`: RAIN and greedy decoding, with intervals, paired tests, cost and the paper's figures.

The file that --json writes, schema 1 (shares in [0, 1]; null if nothing is known; plain: the greedy answers):

    schema    1
    runs[]    outdir, task, method (rain, best-of-n, ...; its answers are called "rain" below), model, size (billions of
              parameters or null), target (imdb), guide (its evaluators), config (hash), records, errors, torn,
              left_out (counts), error_reasons {text: count}, notes[] (what readers of the verdicts must know)
      scores[]    metric (harmless, helpful, attack, true, info, true_info, positive, negative), judge, version,
                  better (higher or lower), rain and plain {yes, of, rate, low, high, null, open}, pairs, difference,
                  low, high, rain_only, plain_only, p, other_versions, paper[] {setting, vanilla, rain, approx}
      pairwise[]  judge, version, win, lose, tie, null, open, win_rate, low, high, p, paper[]
      texts       {rain, plain: {words, repetition, fluency {judge: nats per token}}}: means over answers
      cost        prompts, sides {rain, plain, ...: {counter: {total, mean}}},
                  ratios {plain, ...: {tokens_computed, forward_passes, seconds: {value, low, high}}}, paper[]
    comparisons[] first, second (numbers of runs of one task, from 0), metric, judge, version, better, prompts (that
                  both answered), pairs, difference, low, high, first_only, second_only, p

Intervals are at 95 %: Wilson's (differences: Newcombe's for pairs; ratios: delta method); p is the exact McNemar test
(pairwise: sign test). `null` counts unreadable replies, `open` queries that were never answered; neither enters a rate.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rain.core.types import Json
from rain.judges.keywords import NOTE
from rain.judges.queries import load_run
from rain.report.figure import equal_cost
from rain.report.markdown import markdown
from rain.report.measures import Question, cost, guide, pairwise_rows, questions, score_row, target, text_rows
from rain.report.pairs import comparisons
from rain.report.paper import model_size
from rain.report.table import Table
from rain.results.files import check_writable, write_atomic
from rain.results.jsonl import encode_json
from rain.terminal import prepare_streams, printable

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rain report`."""
    parser.add_argument("outdir", nargs="+", type=Path, metavar="OUTDIR", help="directories of runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file")
    text = "draw rate against tokens and against seconds, a point for each run (PNG)"
    parser.add_argument("--figure", type=Path, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the tables, write the files that were asked for, and return 0; RainError for bad input."""
    for output in (args.json, args.markdown, args.figure):
        if output:
            check_writable(output)
    report = build(list(dict.fromkeys(args.outdir)))
    text = printable(markdown(report))
    if args.json:
        write_atomic(args.json, encode_json(report, indent=1) + b"\n")
    if args.markdown:
        write_atomic(args.markdown, text.encode("utf-8", "backslashreplace"))
    prepare_streams()
    print(text, end="")
    if args.figure:
        write_atomic(args.figure, equal_cost(report["runs"]))
    return 0


def build(outdirs: Sequence[Path]) -> Json:
    """Return the report about some runs, as the module's docstring describes it."""
    tables = [Table(load_run(outdir)) for outdir in outdirs]
    asked = [questions(table) for table in tables]
    return {"schema": SCHEMA, "runs": list(map(_run, tables, asked)), "comparisons": comparisons(tables, asked)}


def _run(table: Table, asked: Sequence[Question]) -> Json:
    found = table.run
    reasons = Counter(str(record["error"]) for record in found.errors or ())  # without errors no record is read
    return {
        "outdir": str(found.outdir),
        "task": found.task,
        "method": table.method,
        "model": table.model,
        "size": model_size(table.model),
        "target": target(found),
        "guide": guide(found),
        "config": found.hash,
        "records": len(found.records),
        "errors": len(found.errors),
        "torn": found.torn,
        "left_out": found.left_out,
        "error_reasons": dict(reasons.most_common()),
        "scores": [score_row(table, question) for question in asked],
        "pairwise": pairwise_rows(table),
        "texts": text_rows(table),
        "notes": [f"keywords: {NOTE}."] if any(one.judge.startswith("keywords:") for one in table.judged) else [],
        "cost": cost(table),
    }
