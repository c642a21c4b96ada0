"""`rain annotate make RUN... --out DIR` and `rain annotate score DIR/*.jsonl`: people rate answers, blind."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rain.annotate.items import QUESTIONS
from rain.annotate.make import Json, make
from rain.judges.queries import load_run
from rain.report.markdown import difference, p_value, rate
from rain.results.files import write_atomic
from rain.results.jsonl import encode_json
from rain.tables import text_table
from rain.terminal import printable

SCORES = "scores"
"""The folder in that of a study where results are written: not among the files that raters sent."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rain annotate`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="make|score")
    made = actions.add_parser("make", help="write a page for each rater", description="Write a page for each rater.")
    made.add_argument("outdir", nargs="+", type=Path, metavar="RUN", help="OUTDIR of a run; several are compared")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pages and their secret")
    text = "what raters say: which answer they prefer, or what is true of each answer (default: preferred)"
    made.add_argument("--question", choices=sorted(QUESTIONS), default="preferred", help=text)
    made.add_argument("--raters", type=_count, default=3, metavar="N", help="number of pages (default: 3)")
    text = "share of the items that come twice, sides swapped (0 to 1, default: 0.1)"
    made.add_argument("--repeat", type=_share, default=0.1, metavar="SHARE", help=text)
    text = "items with a known verdict: question, chosen, rejected; or question, response, label"
    made.add_argument("--gold", type=Path, metavar="FILE", help=text)
    text = "rate so many prompts, drawn at random (default: all)"
    made.add_argument("--prompts", type=_count, default=0, metavar="N", help=text)
    text = "join what raters sent back with the secret: who wins, and how far raters agree"
    scored = actions.add_parser("score", help=text, description=text)
    scored.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files that the pages saved")
    scored.add_argument("--study", type=Path, metavar="DIR", help="folder of the pages (default: that of the files)")


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
    return _make(args) if args.action == "make" else _score(args)


def _make(args: argparse.Namespace) -> int:
    runs = [load_run(outdir) for outdir in args.outdir]
    options = {name: getattr(args, name) for name in ("raters", "repeat", "gold", "prompts")}
    secret = make(runs, args.question, args.out, **options)
    asked = sum(not right for *_, right in secret["items"])
    seen = len(secret["raters"]["1"]["showings"])
    gold = len(secret["items"]) - asked
    print(printable(
        f"{args.out}: {asked} items, {len(secret['ties'])} pairs of identical answers that nobody is asked about\n"
        f"each rater sees {seen}: {seen - len(secret['items'])} of them repeats, {gold} of them gold\n"
        f"send rater_1.html to rater_{args.raters}.html to one rater each, and nothing else; put the files that come "
        f"back into {args.out}, then: rain annotate score {args.out}/*.jsonl"
    ))  # fmt: skip
    return 0


def _score(args: argparse.Namespace) -> int:
    from rain.annotate.judges import human, judge_rows, ratings_file
    from rain.annotate.read import read_ratings, read_study
    from rain.annotate.score import majorities, score
    from rain.annotate.statistics import need_libraries

    need_libraries()
    study = args.study or args.files[0].parent
    secret = read_study(study)
    ratings = read_ratings(args.files, secret)
    report = score(secret, ratings)
    verdicts = majorities(one for one in ratings if not one.repeat and not secret["items"][one.item][2])
    folder = study / SCORES
    folder.mkdir(exist_ok=True)
    written: dict[int, Path] = {}
    report["judges"] = []
    for number in range(len(secret["runs"])):
        found = human(secret, verdicts, number)
        path = folder / f"{secret['question']}_{number}.jsonl"
        if data := ratings_file(secret, found, number, len(report["raters"])):
            write_atomic(path, data)
            written[number] = path
        report["judges"] += judge_rows(secret, found, number, f"ratings:{path.stem}")
    write_atomic(folder / "score.json", encode_json(report, indent=1) + b"\n")
    print(printable(describe(report)))
    for number, path in written.items():
        print(printable(f"for the tables of a run: rain judge {secret['runs'][number]} --judge ratings:{path}"))
    print(printable(f"every number: {folder / 'score.json'}"))
    return 0


def describe(report: Json) -> str:
    """Return a report as tables for a terminal."""
    head = f"{report['question']} ({report['version']}): {report['items']} items, {len(report['raters'])} raters"
    parts = [head, text_table(_pairs(report), "<<>")]
    if len(report["systems"][0]) > 2:
        parts.append(text_table(_systems(report), "<>"))
    if found := report["agreement"]:
        name = "Cohen's kappa" if found["measure"] == "kappa" else "Krippendorff's alpha"
        parts.append(f"{name} of {found['raters']} raters on {found['items']} items: {_number(found)}")
    parts.append(text_table(_raters(report), "<>"))
    if report["judges"]:
        parts.append(text_table(_judges(report), "<<>"))
    return "\n\n".join(parts)


def _number(row: Json, name: str = "value") -> str:
    if row[name] is None or row["low"] is None:
        return "-"
    return f"{row[name]:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _percent(row: Json, yes: str, of: int) -> str:
    shares = {name: row[name] for name in ("low", "high")}
    return rate({"rate": row[yes] / of if of else None, "yes": row[yes], "of": of, **shares})


def _pairs(report: Json) -> list[Sequence[str]]:
    if report["question"] != "preferred":
        rows = [
            [row["first"], row["second"], str(row["pairs"]), difference(row), str(row["first_only"]),
             str(row["second_only"]), p_value(row["p"])] for row in report["pairs"]
        ]  # fmt: skip
        return [["first", "second", "pairs", "first - second", "first only", "second only", "McNemar p"], *rows]
    counts = ("win", "tie", "loss", "both_bad", "identical")
    rows = [
        [row["first"], row["second"], *(str(row[name]) for name in counts),
         _percent(row, "win", row["win"] + row["loss"]), p_value(row["p"])] for row in report["pairs"]
    ]  # fmt: skip
    return [["first", "second", "wins", "ties", "losses", "of ties: both bad", "identical", "wins of decided, %",
             "sign test p"], *rows]  # fmt: skip


def _systems(report: Json) -> list[Sequence[str]]:
    if report["question"] == "preferred":
        rows = [[row["name"], _number(row, "strength")] for row in report["systems"]]
        return [["method", "Bradley-Terry strength (log-odds)"], *rows]
    return [["method", f"{report['question']}, %", "cannot tell"],
            *([row["name"], rate(row), str(row["null"])] for row in report["systems"])]  # fmt: skip


def _raters(report: Json) -> list[Sequence[str]]:
    rows = []
    for row in report["raters"]:
        side, again, gold = row["side"], row["self"], row["gold"]
        kappa = "-" if again["kappa"] is None else f"{again['kappa']:.2f}"
        shown = [f"{row['rated']}/{row['of']}", f"{row['median_seconds']:.1f}", str(row["fast"])]
        shown += [_percent(side, "left", side["left"] + side["right"]), p_value(side["p"]) if side["left"] + side["right"] else "-"]
        rows.append([row["rater"], *shown, _percent(again, "agree", again["n"]), kappa, _percent(gold, "agree", gold["n"])])
    return [["rater", "rated", "median s", "too fast", "left of decided, %", "p", "same when repeated, %", "kappa",
             "gold right, %"], *rows]  # fmt: skip


def _judges(report: Json) -> list[Sequence[str]]:
    rows = [
        [row["judge"], row["criterion"], str(row["run"]), _percent(row, "agree", row["n"]),
         "-" if row["kappa"] is None else f"{row['kappa']:.2f}", f"{row['decided_agree']}/{row['decided']}"]
        for row in report["judges"]
    ]  # fmt: skip
    return [["judge", "criterion", "run", "agrees with raters, %", "kappa", "without ties"], *rows]
