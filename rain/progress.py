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

LOG_FORMAT = "rain: {n_fmt} of {total_fmt} prompts, {elapsed} elapsed, {remaining} left{postfix}"
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


class Progress:
    """Shows what workers report: prompts done, committed text if ``verbose``, failures."""

    def __init__(self, total: int, done: int, verbose: bool) -> None:
        style: dict[str, Any] = {"mininterval": 0.1, "dynamic_ncols": True}
        if not sys.stderr.isatty():
            style = {"mininterval": LOG_S, "bar_format": LOG_FORMAT, "file": LogFile()}
        # miniters 0: simulations are shown, too, while no prompt is done
        self.bar = tqdm(total=total, initial=done, unit="prompt", smoothing=0.1, miniters=0, **style)
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

    The first prompt whose answers differ is chosen.
    """
    answered = (record for record in records if all(isinstance(record.get(name), str) for name in SHOWN))
    record = next(answered, None)
    if record is None:
        return ""
    if record["raina"] == record["pa"]:
        record = next((other for other in answered if other["raina"] != other["pa"]), record)
    method = method_title(str(record.get("method", "rain")))
    texts = ("prompt", record["question"]), ("greedy", record["pa"]), (method, record["raina"])
    return "\n".join(_shortened(f"{name + ': ':8}", text) for name, text in texts)


def _shortened(label: str, text: str) -> str:
    lines = textwrap.wrap(" ".join(printable(text).split()), 100, max_lines=LINES, placeholder=" ...")
    return label + ("\n" + " " * len(label)).join(lines or ["(empty)"])
