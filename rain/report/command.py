"""`rain report OUTDIR...`: RAIN and the greedy baseline, with intervals, paired tests, cost and the paper's figures.

The file that --json writes, schema 1 (shares in [0, 1]; null if nothing is known; plain: the greedy baseline):

    schema    1
    runs[]    outdir, task, model, size (billions of parameters or null), target (imdb), config (hash),
              records, errors, torn, left_out (counts), error_reasons {text: count}
      scores[]    metric (harmless, helpful, attack, true, info, true_info, positive, negative), judge, version,
                  better (higher or lower), rain and plain {yes, of, rate, low, high, null, open}, pairs, difference,
                  rain_only, plain_only, p, other_versions, paper[] {setting, vanilla, rain, approx}
      pairwise[]  judge, version, win, lose, tie, null, open, win_rate, low, high, p, paper[]
      cost        prompts, sides {rain, plain, ...: {counter: {total, mean}}},
                  ratios {plain, ...: {tokens_computed, forward_passes, seconds: {value, low, high}}}, paper[]

Intervals are Wilson's at 95 % (ratios: delta method); p is the exact McNemar test (pairwise: sign test). `null` counts
unreadable replies, `open` queries that were never answered; neither enters a rate.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rain.judges.queries import Run, load_run
from rain.report.markdown import markdown
from rain.report.measures import cost, model_name, pairwise_rows, read_judged, score_rows, target
from rain.report.paper import model_size
from rain.results.files import check_writable, write_atomic
from rain.results.jsonl import encode_json
from rain.terminal import escape_unencodable, printable

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rain report`."""
    parser.add_argument("outdir", nargs="+", type=Path, metavar="OUTDIR", help="directories of runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file")


def run(args: argparse.Namespace) -> int:
    """Print the tables, write the files that were asked for, and return 0; RainError for bad input."""
    for output in (args.json, args.markdown):
        if output:
            check_writable(output)
    report = build(args.outdir)
    text = printable(markdown(report))
    if args.json:
        write_atomic(args.json, encode_json(report, indent=1) + b"\n")
    if args.markdown:
        write_atomic(args.markdown, text.encode("utf-8", "backslashreplace"))
    escape_unencodable()
    print(text, end="")
    return 0


def build(outdirs: Sequence[Path]) -> dict[str, Any]:
    """Return the report about some runs, as the module's docstring describes it."""
    return {"schema": SCHEMA, "runs": [_run(load_run(outdir)) for outdir in outdirs]}


def _run(found: Run) -> dict[str, Any]:
    judged = read_judged(found)
    model = model_name(found)
    reasons = Counter(str(record["error"]) for record in found.errors)
    return {
        "outdir": str(found.outdir),
        "task": found.task,
        "model": model,
        "size": model_size(model),
        "target": target(found),
        "config": found.hash,
        "records": len(found.records),
        "errors": len(found.errors),
        "torn": found.torn,
        "left_out": found.left_out,
        "error_reasons": dict(reasons.most_common()),
        "scores": score_rows(found, judged),
        "pairwise": pairwise_rows(found, judged),
        "cost": cost(found),
    }
