"""`rain export OUTDIR --format F --out FILE`: rows for training, and scores for Inspect."""

from __future__ import annotations

import argparse
from pathlib import Path

from rain.core.errors import RainError
from rain.export.rows import FORMATS, Options, stored_verdicts
from rain.judges.queries import SIDES, load_run
from rain.results.files import check_writable, write_atomic
from rain.results.jsonl import encode_json
from rain.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rain export`."""
    parser.add_argument("outdir", type=Path, metavar="OUTDIR", help="directory of a run")
    parser.add_argument("--format", choices=list(FORMATS), required=True, help="what is written (docs/annotate.md)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file (JSON Lines)")
    text = "a judge with verdicts on the run, which say what is good (default: the values that the run recorded)"
    parser.add_argument("--judge", default="", metavar="NAME", help=text)
    text = "which of its questions, if a judge was asked several: harmless, pairwise ... (as in rain report)"
    parser.add_argument("--criterion", default="", metavar="NAME", help=text)
    text = "smallest difference of two values that makes a pair (default: 0.1)"
    parser.add_argument("--margin", type=float, default=0.1, help=text)
    text = "a value above this is good (default: 0)"
    parser.add_argument("--threshold", type=float, default=0.0, help=text)
    text = "inspect: the answers of the run's method (raina, the default) or the greedy ones (pa)"
    parser.add_argument("--side", choices=SIDES, help=text)


def run(args: argparse.Namespace) -> int:
    """Write the file; return 0, RainError for bad input or if there is nothing to write."""
    check_writable(args.out)
    found = load_run(args.outdir)
    if args.format == "inspect" and not args.judge:
        raise RainError("--format inspect needs the verdicts of a judge; name it with --judge")
    if args.format != "inspect" and args.side:
        raise RainError(f"--side is for --format inspect, not {args.format}; leave it out")
    verdicts = stored_verdicts(found, args.judge, args.criterion) if args.judge else None
    options = Options(found, verdicts, args.margin, args.threshold, args.side or SIDES[0])
    rows, used = [], 0
    for record in found.records:
        made = [encode_json(row) + b"\n" for row in FORMATS[args.format](record, options)]
        used += bool(made)
        rows += made
    if not rows:
        raise RainError(f"{args.outdir} has nothing for --format {args.format}: {NEEDS[args.format]}")
    write_atomic(args.out, b"".join(rows))
    print(printable(f"{args.out}: {len(rows)} rows from {used} of {len(found.records)} records"))
    return 0


NEEDS = {
    "trl-preference": "it takes searches recorded with --trace, drafts (best-of-n), or --judge; see also --margin",
    "trl-unpaired": "its records have no values; name a judge with --judge",
    "trl-stepwise": "its records have no commits of a search",
    "sft": "no answer is good; see --threshold, or name a judge with --judge",
    "inspect": "that judge has no verdicts on single answers",
}
