"""Many records: time and memory of resuming, judging and reporting a finished run. Prints a table.

    python tests/load/records.py                 100,000 records of 3 KB
    python tests/load/records.py --records 1000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rain.data.datasets import load_prompts
from rain.tasks import load

RAIN = (sys.executable, "-m", "rain.cli")
LENGTH = 3000


def measure(name: str, *command: str) -> None:
    """Run a command and print its seconds, those of the CPU, and the memory of its largest process (MB)."""
    started = time.monotonic()
    process = subprocess.Popen([*RAIN, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed: {' '.join(command)}")
    seconds, cpu = time.monotonic() - started, used.ru_utime + used.ru_stime
    print(f"| {name} | {seconds:.1f} | {cpu:.1f} | {used.ru_maxrss / 1024:.0f} |", flush=True)


def write_records(folder: Path, dataset: Path) -> None:
    """Give every prompt but those that are answered a record like the first one's, padded to its length."""
    file = folder / "res_0.jsonl"
    first = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    with file.open("a", encoding="utf-8") as out:
        for prompt in load_prompts(dataset, load("adv").reader):
            if prompt.id != first["id"]:
                record = {**first, "id": prompt.id, "question": prompt.question, **prompt.extra}
                record["raina"] += " word" * max(0, (LENGTH - len(json.dumps(record))) // 5)
                out.write(json.dumps(record) + "\n")


def main() -> None:
    """Make the run, and measure what reads it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    count = parser.parse_args().records
    with tempfile.TemporaryDirectory() as made:
        dataset, outdir = Path(made) / "prompts.jsonl", Path(made) / "outdir"
        dataset.write_text("".join(json.dumps({"goal": f"Do the thing number {i}"}) + "\n" for i in range(count)))
        run = ("run", "adv", "--engine", "toy", "--dataset", str(dataset), "--outdir", str(outdir))
        subprocess.run([*RAIN, *run, "--e", "1"], check=True, capture_output=True)
        write_records(outdir, dataset)
        print("| | seconds | of the CPU | memory (MB) |\n|---|---|---|---|")
        measure(f"resume, {count:,} records", *run)
        with (outdir / "res_0.jsonl").open(encoding="utf-8") as lines:
            assert sum(1 for _ in lines) == count, "the resumed run has answered prompts again"
        for name in ("judge, new verdicts", "judge, kept verdicts"):
            measure(name, "judge", str(outdir), "--judge", "keywords:modern")
        measure("report", "report", str(outdir))


if __name__ == "__main__":
    main()
