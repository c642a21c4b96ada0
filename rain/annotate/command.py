"""`rain annotate make RUN... --out DIR` and `rain annotate score DIR/*.jsonl`: people rate answers, blind."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rain.annotate.items import QUESTIONS
from rain.annotate.make import make
from rain.core.types import Json
from rain.extras import need
from rain.judges.queries import load_run
from rain.report.markdown import difference, rate
from rain.results.files import write_atomic, write_error
from rain.results.jsonl import encode_json
from rain.tables import text_table
from rain.terminal import counted, printable

SCORES = "scores"
"""The folder in that of a study where results are written: not among the files that raters sent."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rain annotate`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="make|score")
    made = actions.add_parser("make", help="write a page for each rater", description="Write a page for each rater.")
    made.add_argument("outdir", nargs="+", type=Path, metavar="RUN", help="OUTDIR of a run; several are compared")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pages and their secret")
    text = "what raters say: which of two answers they prefer, or what is true of each (default: preferred)"
    made.add_argument("--question", choices=sorted(QUESTIONS), default="preferred", help=text)
    made.add_argument("--raters", type=_count, default=3, metavar="N", help="number of pages (default: 3)")
    text = "share of the items that come twice, sides swapped (0 to 1, default: 0.1)"
    made.add_argument("--repeat", type=_share, default=0.1, metavar="SHARE", help=text)
    text = "items with a known verdict: question, chosen, rejected; or question, response, label"
    made.add_argument("--gold", type=Path, metavar="FILE", help=text)
    text = "number of prompts to rate, drawn at random (default: all)"
    made.add_argument("--prompts", type=_count, default=0, metavar="N", help=text)
    text = "join what raters sent back with the secret: which method wins, and how far raters agree"
    scored = actions.add_parser("score", help=text, description=text)
    scored.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what pages saved, in the study's folder")


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number


def run(args: argparse.Namespace) -> int:
    """Make pages or score ratings; return 0, RainError for bad input."""
    print(printable(_make(args) if args.action == "make" else _score(args.files)))
    return 0


def _make(args: argparse.Namespace) -> str:
    options = {name: getattr(args, name) for name in ("raters", "repeat", "gold", "prompts")}
    secret = make(list(map(load_run, dict.fromkeys(args.outdir))), args.question, args.out, **options)
    items, seen = len(secret["items"]), len(secret["raters"]["1"]["showings"])
    gold = sum(bool(right) for *_, right in secret["items"])
    ties = f"{counted(len(secret['ties']), 'pair')} of identical answers, which are ties that nobody is asked about\n"
    return (
        f"{args.out}: {counted(items - gold, 'item')} and {counted(gold, 'gold item')}; {seen - items} come twice\n"
        f"{ties if args.question == 'preferred' else ''}"
        f"send each of the {args.raters} raters one page (rater_1.html ...) and nothing else; put the files that come "
        f"back into {args.out}, then: rain annotate score {args.out}/*.jsonl"
    )


def _score(files: Sequence[Path]) -> str:
    from rain.annotate.judges import human, judge_rows, ratings_file
    from rain.annotate.read import read_ratings, read_study
    from rain.annotate.score import majorities, score

    need("rain annotate score", "annotate", "krippendorff", "sklearn")
    secret = read_study(files[0].parent)
    ratings = read_ratings(files, secret)
    report, verdicts = score(secret, ratings), majorities(secret, ratings)
    report["judges"], notes, folder = [], [], files[0].parent / SCORES
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    for number, outdir in enumerate(secret["runs"]):
        found, path = human(secret, verdicts, number), folder / f"{secret['question']}_{number}.jsonl"
        report["judges"] += judge_rows(secret, found, number, f"ratings:{path.stem}")
        if data := ratings_file(secret, found, number, report["raters"]):
            write_atomic(path, data)
            notes.append(f"for the tables of a run: rain judge {outdir} --judge ratings:{path}")
        elif found:
            notes.append(f"{outdir}: no file for ratings:, since judges are not asked this about {secret['task']}")
    write_atomic(folder / "score.json", encode_json(report, indent=1) + b"\n")
    counts = f"{counted(report['items'], 'item')}, {counted(report['raters'], 'rater')}"
    head = f"{report['question']} ({report['wording']}): {counts}"
    tables = [table(report[name]) for name in ("methods", "pairs", "agreement", "by_rater", "judges") if report[name]]
    return "\n\n".join([head, *tables, "\n".join([*notes, f"every number: {folder / 'score.json'}"])])


def table(rows: Sequence[Json]) -> str:
    """Return rows of a report as a table."""
    head = [name.replace("_", " ") for name in rows[0]]
    return text_table([head, *([_cell(*item) for item in row.items()] for row in rows)], "<")


def _cell(name: str, value: object) -> str:
    if name == "difference" and isinstance(value, dict):
        return difference({**value, "difference": value["value"]})
    if isinstance(value, dict) and "rate" in value:
        return rate(value)
    if isinstance(value, dict):
        middle, low, high = (_number(value[key]) for key in ("value", "low", "high"))
        return "-" if value["value"] is None else f"{middle} [{low}, {high}]"
    return _number(value)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    return "-" if value is None else str(value)
