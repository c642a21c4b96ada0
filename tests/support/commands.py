"""The allocation command as a user runs it, with the toy engine, and what it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.tiny_task import decisions

from rain.results.jsonl import read_records
from rain.results.run_dir import iter_results, result_paths

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "HH" / "allocation.py")]
QUICK = (
    "--engine toy --max-simulations 6 --extra-simulations 3 --min-visits 2 --candidates 4 --max-draws 3 "
    "--max-new-tokens 12 --prefetch 0"
).split()
"""Short runs whose costs are the same each time: what is computed ahead depends on the clock."""

MANY = 40
"""Prompts in the file of the fixture ``many``."""


def _options() -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    return {"text": True, "env": env}


def allocate(*flags: object, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([*before, *COMMAND, *map(str, flags)], capture_output=True, **_options())


@contextmanager
def running(*flags: object, stderr: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a process group of its own, which ends with the block."""
    command = [*COMMAND, *map(str, flags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True, **_options())
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def read_until_commit(process: subprocess.Popen[str], ids: Iterable[int]) -> None:
    """Read the output of a verbose run until one of these prompts has committed something."""
    assert process.stdout is not None
    starts = tuple(f"[hh-{number:05d}-" for number in ids)
    assert any(line.startswith(starts) for line in process.stdout), "the run ended before"


def refusal(*flags: object) -> str:
    """Return the sentence with which the command ends; it is the last on standard error."""
    done = allocate(*flags)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("rain: error: ")]
    assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0]), done.stderr
    return lines[0]


def save_questions(path: Path, questions: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    return path


def answers(outdir: Path) -> dict[str, dict[str, Any]]:
    """Return what all records decide, by id; there is one answer for each prompt, whatever failed before."""
    found = list(iter_results(outdir))
    assert sum("error" not in record for path in result_paths(outdir) for _, record in read_records(path)) == len(found)
    return {record["id"]: decisions(record) for record in found}
