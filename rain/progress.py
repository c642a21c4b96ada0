"""What the allocation command shows: progress while it runs, and one prompt's two answers at the end."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

from rain.methods.config import method_title
from rain.pool.worker import RunEvent
from rain.results.jsonl import Record
from rain.terminal import printable, say

LOG_S = 30.0
"""In a log file there is at most one line of progress in this time (seconds)."""

LOG_FORMAT = "rain: {desc}{n_fmt} of {total_fmt} {unit}s, {elapsed} elapsed, {remaining} left{postfix}"
LINES = 3
SHOWN = ("question", "pa", "raina")
"""Fields of a record that are shown; the records of failed prompts, and damaged ones, lack one."""


class LogFile:
    """Where a progress bar writes if standard error is not a terminal: plain lines instead of one redrawn line."""

    def write(self, text: str) -> None:
        """Write what a bar draws as a line; skip what only moves the cursor."""
        if text.strip():
            say(text.strip(), sys.stderr)

    def flush(self) -> None:
        """Bring the lines to the file."""
        sys.stderr.flush()


def progress_bar(total: int, unit: str, **options: Any) -> Any:
    """Return tqdm's bar of so many units; where standard error is no terminal, it is a line now and then.

    There, work that takes less than LOG_S has no line.
    """
    style: dict[str, Any] = {"mininterval": 0.1, "dynamic_ncols": True}
    if not sys.stderr.isatty():
        style = {"mininterval": LOG_S, "bar_format": LOG_FORMAT, "file": LogFile(), "delay": LOG_S}
    return tqdm(total=total, unit=unit, **{**style, **options})


class Progress:
    """Shows what workers report: prompts done, committed text if ``verbose``, failures."""

    def __init__(self, total: int, done: int, verbose: bool) -> None:
        # miniters 0: simulations are shown, too, while no prompt is done
        self.bar = progress_bar(total, "prompt", initial=done, smoothing=0.1, miniters=0, delay=0)
        self.bar.set_postfix_str("loading the model", refresh=sys.stderr.isatty())
        self.verbose = verbose
        self.simulations = 0

    def event(self, event: RunEvent) -> None:
        """Take in one event."""
        if event.kind == "progress":
            self.simulations += event.data["simulations"]
            if self.verbose:
                self._write(f"[{event.job}] {event.data['text']!r}", sys.stdout)
        elif event.kind == "failed":
            self._write(printable(f"{event.job}: {event.data}"), sys.stderr)
        elif event.kind == "died":
            text = f"worker {event.worker} {event.data}; its prompts will be retried"
            self._write(printable(text), sys.stderr)
        elapsed = self.bar.format_dict["elapsed"] or 1
        speed = f"{self.simulations / elapsed:.1f} simulations/s" if self.simulations else ""
        self.bar.set_postfix_str(speed, refresh=False)
        self.bar.update(event.kind in ("done", "failed"))

    def _write(self, text: str, stream: TextIO) -> None:
        with self.bar.external_write_mode(file=stream):
            say(text, stream)

    def close(self) -> None:
        """Show the end."""
        self.bar.close()


def example_answers(records: Iterable[Record]) -> str:
    """Return one prompt with its two answers, a few lines each; empty if no prompt has answers.

    The first prompt is chosen whose answers differ in what is shown of them.
    """
    first = ""
    for record in records:
        if all(isinstance(record.get(name), str) for name in SHOWN):
            question, plain, found = (_shortened(record[name]) for name in ("question", "pa", "raina"))
            method = method_title(str(record.get("method", "rain")))
            shown = f"prompt: {question}\ngreedy: {plain}\n{method + ': ':8}{found}"
            if plain != found:
                return shown
            first = first or shown
    return first


def _shortened(text: str) -> str:
    """Return the first lines of a text, indented as they follow a name of eight characters."""
    lines = textwrap.wrap(" ".join(printable(text).split()), 100, max_lines=LINES, placeholder=" ...")
    return ("\n" + " " * 8).join(lines or ["(empty)"])
