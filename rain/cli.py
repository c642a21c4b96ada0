"""The ``rain`` command and its subcommands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from rain.entry import guarded
from rain.flags import Parser

COMMANDS = {
    "run": ("rain.launch", "answer the prompts of a task with RAIN and greedily"),
    "ask": ("rain.ask", "answer a question, showing the text as it is committed"),
    "serve": ("rain.serve.command", "run an OpenAI-compatible server that streams text as it is committed"),
    "bench": ("rain.bench.command", "compare the cost of RAIN with the published way of computing and greedy decoding"),
    "goals": ("rain.tasks.goals", "what RAIN can align to, and how well the embedded model can judge it"),
    "preflight": ("rain.preflight", "measure whether an evaluator tells good texts from bad ones, and calibrate it"),
    "draw": ("rain.draw", "draw partial answers of the model itself, to be labelled"),
    "label": ("rain.evaluators.labelling", "label the texts of a file, a key each"),
    "learn": ("rain.learn", "learn from labelled texts to tell good ones by the model's hidden states (a read-out)"),
    "judge": ("rain.judges.command", "have the answers of a run scored"),
    "annotate": ("rain.annotate.command", "have people rate answers blind, and score what they say"),
    "export": ("rain.export.command", "write answers and verdicts as training data, or as scores for Inspect"),
    "report": ("rain.report.command", "scores and costs of runs, RAIN compared with greedy decoding, with intervals"),
    "view": ("rain.view.command", "show the searches of a run in the browser"),
    "attack": ("rain.attacks.command", "write adversarial suffixes (GCG) that test a defence"),
    "replay": ("rain.replay", "replay recorded searches and compare every node"),
}

RESUMED = ("run", "judge", "attack")
"""Commands that resume after an interruption."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; a RainError ends with one sentence on stderr and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(words), resumes=bool(words) and words[0] in RESUMED)


def installed_version() -> str:
    """Return the version; a checkout that was never installed has none."""
    try:
        return version("rain")
    except PackageNotFoundError:
        return "(not installed)"


def _run(arguments: list[str]) -> int:
    parser = Parser(prog="rain", description="RAIN: rewindable auto-regressive inference")
    parser.add_argument("--version", action="version", version=f"rain {installed_version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_text, description=help_text)
        if name in arguments[:1]:
            importlib.import_module(module).add_arguments(subparser)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        subparsers.choices[args.command].refuse(unknown)
    return int(importlib.import_module(COMMANDS[args.command][0]).run(args))


if __name__ == "__main__":
    sys.exit(main())
