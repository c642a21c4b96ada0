"""What the tests do to RAIN: signals sent, replies of scripted servers and bad inputs, counted. Prints two tables.

    python tests/load/faults.py                          the tests of workers, servers, results, judges and commands
    python tests/load/faults.py tests/engines/test_hostile_servers.py
"""

from __future__ import annotations

import argparse
import os
import signal
import socketserver
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import rain.entry

TESTS = Path(__file__).resolve().parents[1]
WHERE = [str(TESTS / name) for name in ("pool", "system", "engines", "results", "judges", "serve", "annotate", "data")]
BAD_INPUT = 2


class Tally:
    """A pytest plugin that counts, by the file of the test, what happens in this process.

    Attributes:
        counts: of (what, file).
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._file = ""

    def add(self, what: str, number: int = 1) -> None:
        """Count something of the test that is running."""
        self.counts[what, self._file] += number

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note whose turn it is."""
        self._file = nodeid.partition("::")[0]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count tests that ran."""
        if report.when == "call":
            self.add(f"tests {report.outcome}")

    def watch(self) -> None:
        """Count signals, bytes that servers write, and calls that end as bad input."""
        kill, killpg, run, guarded = os.kill, os.killpg, subprocess.run, rain.entry.guarded
        write = socketserver._SocketWriter.write
        error = argparse.ArgumentParser.error

        def counted(send: Any) -> Any:
            def sent(pid: int, number: int) -> None:
                if number:
                    self.add(signal.Signals(number).name)
                send(pid, number)

            return sent

        def finished(*args: Any, **options: Any) -> Any:
            done = run(*args, **options)
            if done.returncode == BAD_INPUT:
                self.add("bad inputs")
            return done

        def ended(work: Any, **options: Any) -> int:
            code = guarded(work, **options)
            if code == BAD_INPUT:
                self.add("bad inputs")
            return code

        def refused(parser: argparse.ArgumentParser, message: str) -> Any:
            self.add("bad inputs")
            error(parser, message)

        def written(writer: Any, data: Any) -> int:
            self.add("replies: bytes", len(data))
            return write(writer, data)

        os.kill, os.killpg = counted(kill), counted(killpg)
        subprocess.run, rain.entry.guarded = finished, ended  # type: ignore[assignment]
        argparse.ArgumentParser.error = refused  # type: ignore[method-assign]
        socketserver._SocketWriter.write = written  # type: ignore[method-assign]


def main() -> int:
    """Run the tests and print what was counted."""
    tally = Tally()
    tally.watch()
    code = pytest.main(["-q", "-p", "no:cacheprovider", *(sys.argv[1:] or WHERE)], plugins=[tally])
    for (what, file), number in sorted(tally.counts.items()):
        print(f"| {what} | {file} | {number:,} |")
    totals: Counter[str] = Counter()
    for (what, _), number in tally.counts.items():
        totals[what] += number
    for what, number in sorted(totals.items()):
        print(f"| {what} | {number:,} |")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
