"""``rain ask``: one question (or a line of standard input each), answered as it is committed, then greedily."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator

from rain.configs import RunConfig
from rain.core.errors import RainError
from rain.costs import answer_table
from rain.generation import Answer
from rain.library import Rain
from rain.methods.config import method_title
from rain.settings import add_setting_flags, given_settings
from rain.tasks.goals import GOALS
from rain.terminal import printable, say

SHADES = (196, 208, 220, 148, 40)
"""Colours of the 256-colour palette, from red for value -1 to green for +1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain ask``."""
    parser.usage = '%(prog)s [FLAGS] ["QUESTION"]'
    parser.add_argument("question", nargs="?", help="what to ask (default: every line of standard input)")
    parser.add_argument("--goal", default="harmless", choices=list(GOALS), help="what to align to (default: harmless)")
    parser.add_argument("--no-plain", action="store_true", help="leave out the greedy answer and the cost")
    add_setting_flags(parser, without=[RunConfig])


def run(args: argparse.Namespace) -> int:
    """Answer; return 0, or 2 if a line of standard input could not be answered."""
    settings = given_settings(args)
    if args.question is None and sys.stdin.isatty():
        raise RainError('nothing was asked; write rain ask "your question"')
    if args.question is not None and not args.question.strip():
        raise RainError("the question is empty")
    with Rain(goal=args.goal, model=settings.pop("modelname", "smollm2"), progress=False, **settings) as rain:
        if args.question is not None:
            show(rain, args.question, plain=not args.no_plain)
            return 0
        code = 0
        for question in _lines():
            if not args.no_plain:
                say(f"\n> {printable(question)}")
            try:
                show(rain, question, plain=not args.no_plain)
            except RainError as error:
                say(printable(f"rain: error: {error}"), sys.stderr)
                code = 2
    return code


def _lines() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def show(rain: Rain, question: str, *, plain: bool) -> None:
    """Print an answer as it is committed, then the greedy one and what each cost."""
    colours = sys.stdout.isatty()
    prepared = rain.prepare(question)
    generation = rain.aligner.begin(prepared)

    async def search() -> Answer:
        async for piece in generation.pieces():
            text = printable(piece.text)
            print(paint(text, piece.commit.value) if colours and piece.commit else text, end="", flush=True)
        print()
        return generation.answer()

    answer = rain.run(search())
    if not plain:
        return
    baseline = rain.run(rain.aligner.generate_baseline(prepared))
    method = method_title(rain.aligner.config.method.method)
    print(f"\ngreedy: {printable(baseline.text)}\n\n{answer_table(method, answer.cost, baseline.cost)}")


def paint(text: str, value: float) -> str:
    """Colour text by a value in [-1, 1]."""
    shade = SHADES[min(len(SHADES) - 1, int((value + 1) / 2 * len(SHADES)))]
    return f"\x1b[38;5;{shade}m{text}\x1b[0m"
