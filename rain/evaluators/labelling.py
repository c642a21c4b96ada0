"""``rain label``: gives the texts of a file their labels, a key each; it stops and resumes at any time."""

from __future__ import annotations

import argparse
import json
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.data.rows import BadRow, read_items, text
from rain.results.files import check_writable, write_atomic
from rain.terminal import counted, printable, say

KEYS = "g good, b bad, s skip, u undo, q stop"
VALUES: dict[str, int | None] = {"g": 1, "b": 0, "s": None}


class Counts(NamedTuple):
    """How many texts of a file are labelled, skipped, and left to do."""

    labelled: int
    skipped: int
    left: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain label``."""
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help=f"texts: question and response; keys: {KEYS}")


def run(args: argparse.Namespace) -> int:
    """Ask for labels until there are no more texts, or until the user stops."""
    with keyboard() as read_key:
        labelled, skipped, left = label_texts(args.file, read_key)
    shown = f"{args.file}: {counted(labelled, 'text')} labelled, {skipped} skipped, {left} without a label"
    print(f"{shown}; {'the same command continues' if left else 'rain preflight and rain learn take it as --labelled'}")
    return 0


def label_texts(path: Path, read_key: Callable[[], str]) -> Counts:
    """Ask for the label of each text that has none, and write it into the file at once (1: good, null: skipped).

    Args:
        path: a .jsonl file with question and response.
        read_key: returns the next key; "" at the end of the input, which stops as "q" does.

    Returns:
        How many texts there are of each sort.

    Raises:
        RainError: a row lacks a field, or the file cannot be written.
    """
    rows = _read(path)
    check_writable(path)
    done = [i for i, row in enumerate(rows) if "label" in row]
    while todo := [i for i, row in enumerate(rows) if "label" not in row]:
        key = _ask(rows[todo[0]], f"{len(rows) - len(todo) + 1} of {len(rows)}", read_key)
        if key in ("", "q"):
            break
        if key in VALUES:
            rows[todo[0]]["label"] = VALUES[key]
            done.append(todo[0])
        elif done:
            del rows[done.pop()]["label"]
        write_rows(path, rows)
    skipped = sum("label" in row and row["label"] is None for row in rows)
    return Counts(len(rows) - len(todo) - skipped, skipped, len(todo))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSONL file."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _ask(row: Mapping[str, Any], place: str, read_key: Callable[[], str]) -> str:
    """Show a text and return a known key, or ""."""
    say(f"\n--- {place} ---\n{printable(row['question'])}\n>>> {printable(row['response'])}\n[{KEYS}]")
    while (key := read_key()) not in ("", "q", "u", *VALUES):
        if not key.isspace():
            say(f"{printable(key)!r} is none of them: {KEYS}")
    return key


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix != ".jsonl":
        raise RainError(f"{path} must be a .jsonl file")
    rows = []
    for item in read_items(path, lambda document: [], []):
        try:
            row = item.row()
            text(row, "question")
            text(row, "response")
        except BadRow as error:
            raise RainError(f"{path}, {item.where}: {error}") from error
        rows.append(row)
    return rows


@contextmanager
def keyboard() -> Iterator[Callable[[], str]]:
    """Yield a function that waits for the next key, without the Enter key where standard input is a terminal."""
    if not sys.stdin.isatty():
        yield lambda: sys.stdin.read(1)
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield lambda: sys.stdin.read(1)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
