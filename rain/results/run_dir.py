"""The directory of one run: its configuration, its result files, and how a run goes on where it stopped.

- OUTDIR/config.json: the whole configuration and its hash (rain.results.configfile)
- OUTDIR/res_<i>.jsonl: the records of worker i (rain.results.jsonl)
- OUTDIR/.lock: held by the run in progress
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.results.configfile import config_hash, differences, read_config
from rain.results.files import open_locked, write_atomic, write_error
from rain.results.jsonl import Line, Record, ResultWriter, Scan, encode_json, scan

__all__ = ["OutDir", "Record", "ResultWriter", "Resumed", "read_config", "read_results", "result_paths"]


class Resumed(NamedTuple):
    """What a run found in its directory.

    Attributes:
        done: ids that need no work.
        retried: how many prompts had failed before and are tried again (count).
        torn: how many files ended in a torn line that was removed (count).
    """

    done: set[str]
    retried: int
    torn: int


class OutDir:
    """Opens or creates the directory of a run and keeps it locked until `close` or the end of the process.

    Args:
        path: the directory; missing parents are created.
        config: the whole configuration, JSON values in nested mappings (tuples become lists).
        volatile: dotted names of fields that do not change results (such as `run.nump`); they may differ between two
            runs in one directory and do not enter the hash.

    Attributes:
        path: the directory.
        config_hash: 16 hexadecimal digits that name the configuration in every record.

    Raises:
        RainError: another run uses the directory, its results have a different configuration, or it cannot be written.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], volatile: Collection[str] = ()) -> None:
        self.path = Path(path)
        self.config_hash = config_hash(config, volatile)
        self._lock = _lock(self.path)
        try:
            self._check_config(config, volatile)
        except BaseException:
            self.close()
            raise

    def _check_config(self, config: Mapping[str, Any], volatile: Collection[str]) -> None:
        file = self.path / "config.json"
        new = {"hash": self.config_hash, **json.loads(encode_json(config))}
        if file.exists():
            old = read_config(self.path)
            if old == new:
                return
            differing = differences(old, new, {"hash", *volatile})
            if differing:
                raise RainError(
                    f"{self.path} holds results of a different configuration ({differing}); "
                    "give another --outdir, or the settings of the first run"
                )
        elif any(scan(path).lines for path in result_paths(self.path)):
            raise RainError(f"{self.path} holds results but no config.json; give another --outdir")
        write_atomic(file, encode_json(new, indent=2) + b"\n")

    def result_path(self, worker: int | str) -> Path:
        """Return the result file of a worker."""
        return self.path / f"res_{worker}.jsonl"

    def resume(self, ids: Collection[str]) -> Resumed:
        """Prepare the result files for a run over these prompts, so that every prompt ends up in them exactly once.

        Removes torn last lines, the failures of prompts in `ids` (they are tried again), failures of prompts that
        succeeded elsewhere, and second records of a prompt. Files are replaced atomically. A worker that outlived its
        killed run still holds its file's lock; this call waits for it.

        Raises:
            RainError: a file is damaged before its last line, still in use, or cannot be written.
        """
        with ExitStack() as locks:
            for path in result_paths(self.path):
                locks.enter_context(_locked(path))
            scans = {path: scan(path) for path in result_paths(self.path)}
            kept, retried = _select(scans, set(ids))
            for path, lines in kept.items():
                if scans[path].torn or len(lines) < len(scans[path].lines):
                    write_atomic(path, b"".join(line.raw + b"\n" for line in lines))
        done = {line.record["id"] for lines in kept.values() for line in lines}
        return Resumed(done & set(ids), len(retried), sum(found.size > found.good_size for found in scans.values()))

    def done_ids(self, errors: bool = False) -> set[str]:
        """Return the ids of all prompts with an answer, and with `errors` also of those that failed.

        A line that a worker is writing at this moment does not count.

        Raises:
            RainError: a file is damaged before its last line.
        """
        records = (line.record for path in result_paths(self.path) for line in scan(path).lines)
        return {record["id"] for record in records if errors or "error" not in record}

    def close(self) -> None:
        """Give up the lock; a second call does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> OutDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _select(scans: Mapping[Path, Scan], ids: set[str]) -> tuple[dict[Path, list[Line]], set[str]]:
    """Return the lines that stay in each file, and the ids out of `ids` that have only failures."""
    good = {line.record["id"] for found in scans.values() for line in found.lines if "error" not in line.record}
    kept: dict[Path, list[Line]] = {path: [] for path in scans}
    retried: set[str] = set()
    seen: set[str] = set()
    for path, found in scans.items():
        for line in found.lines:
            key, failed = line.record["id"], "error" in line.record
            if failed and key in ids and key not in good:
                retried.add(key)
            elif key not in seen and not (failed and key in good):
                seen.add(key)
                kept[path].append(line)
    return kept, retried


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = open_locked(path, wait_s=10.0)
    if descriptor is None:
        raise RainError(f"{path} is still being written by a worker of an earlier run; wait for it or end it")
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(outdir: Path) -> int:
    file = outdir / ".lock"
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(outdir, error) from error
    descriptor = open_locked(file)
    if descriptor is None:
        owner = file.read_text(errors="replace").strip() or "unknown"
        raise RainError(f"another run (process {owner}) is using {outdir}; wait for it or give another --outdir")
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:
        os.close(descriptor)
        raise write_error(file, error) from error
    return descriptor


def result_paths(outdir: Path) -> list[Path]:
    """Return the result files of a run, those of the workers in order (res_2 before res_10)."""
    return sorted(outdir.glob("res_*.jsonl"), key=lambda path: (len(path.stem), path.stem))


def read_results(outdir: Path) -> list[Record]:
    """Return one record per prompt, by id: the last one, failures only where there is no answer.

    Raises:
        RainError: there is no such directory, or a file is damaged before its last line.
    """
    if not outdir.is_dir():
        raise RainError(f"there is no directory {outdir}")
    best: dict[str, Record] = {}
    for path in result_paths(outdir):
        for _, record in scan(path).lines:
            if "error" not in record or "error" in best.get(record["id"], record):
                best[record["id"]] = record
    return [best[key] for key in sorted(best)]
