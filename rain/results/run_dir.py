"""The directory of one run: its configuration, its records, and how a run resumes where it stopped.

- OUTDIR/config.json: the format of the directory, the whole configuration and its hash
- OUTDIR/res_<i>.jsonl: the records of worker i; res_lost.jsonl: those of prompts that were given up
- OUTDIR/.lock: locked by the run in progress, which alone writes here
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rain.core.errors import RainError
from rain.results.files import locked, write_atomic, write_error
from rain.results.jsonl import Line, Record, ResultWriter, Scan, encode_json, scan

FORMAT = 2
"""Value of `format` in config.json; directories with another one can be read, but not resumed."""

_ABSENT = "absent"
_SHOWN_FIELDS = 4


class RunDir:
    """Opens or creates the directory of a run and keeps it locked until `close` or the end of the process.

    Args:
        path: the directory; missing parents are created.
        config: everything that a record depends on; JSON values in nested mappings (tuples become lists).
        config_hash: names this configuration.
        details: more for config.json, by section; it may differ when the run is resumed.

    Attributes:
        path: the directory.

    Raises:
        RainError: another run uses the directory, its results have a different configuration or another format, or it
            cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        config_hash: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._writers: dict[int | str, ResultWriter] = {}
        with ExitStack() as opened:
            _lock(self.path, opened)
            self._put_config({"format": FORMAT, "hash": config_hash, **config}, details or {})
            self._opened = opened.pop_all()

    def _put_config(self, config: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        """Write config.json, unless what is there forbids it; without records, any earlier configuration may change."""
        file = self.path / "config.json"
        new = json.loads(encode_json({**config, **details}))
        old = read_config(self.path) if file.exists() else None
        if old is not None and old.get("format") != FORMAT:
            raise RainError(
                f"{self.path} is not a folder of this version of RAIN (in config.json, 'format' is "
                f"{_short(old, 'format')}, not {FORMAT}) and cannot be continued; give another --outdir"
            )
        if any(scan(path).lines for path in result_paths(self.path)):
            if old is None:
                raise RainError(f"{self.path} contains results but no config.json; give another --outdir")
            self._compare(*({k: v for k, v in each.items() if k not in {"hash", *details}} for each in (old, new)))
        write_atomic(file, encode_json(new, indent=2) + b"\n")

    def _compare(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        if differing := differences(old, new):
            raise RainError(
                f"{self.path} contains results of a different configuration ({differing}); "
                "give another --outdir, or the settings of the first run"
            )

    def resume(self, ids: Collection[str]) -> set[str]:
        """Prepare the result files for a run over these prompts, so that every prompt ends up in them exactly once.

        Removes torn last lines, the failures of prompts in `ids` (they are tried again), failures of prompts that
        succeeded elsewhere, and second records of a prompt. Files are replaced atomically.

        Returns:
            Those of `ids` that need no work.

        Raises:
            RainError: a file is damaged before its last line, or cannot be written.
        """
        scans = {path: scan(path) for path in result_paths(self.path)}
        kept = _select(scans, set(ids))
        for path, lines in kept.items():
            if len(lines) < len(scans[path].lines):
                write_atomic(path, b"".join(line.raw + b"\n" for line in lines))
            elif scans[path].torn:
                ResultWriter(path).close()  # repairs it in place, which needs no free space
        return {line.record["id"] for lines in kept.values() for line in lines} & set(ids)

    def write(self, worker: int | str, record: Record) -> None:
        """Append a worker's record to its file, which is opened for its first one; after return it is on disk.

        Raises:
            RainError: the disk is full or fails; the record is not written.
            ValueError: a number in the record is infinite or not a number.
        """
        if worker not in self._writers:
            writer = ResultWriter(self.path / f"res_{worker}.jsonl")
            self._writers[worker] = self._opened.enter_context(writer)
        self._writers[worker].write(record)

    def close(self) -> None:
        """Close the files and give up the lock; a second call does nothing."""
        self._opened.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(outdir: Path, opened: ExitStack) -> None:
    """Lock a directory, creating it if need be; the lock file says who has it."""
    file = outdir / ".lock"
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        owner = file.read_text(errors="replace").strip() if file.exists() else ""
    except OSError as error:
        raise write_error(outdir, error) from error
    user = f"another run (process {owner or 'unknown'})"
    opened.enter_context(locked(file, f"{user} is using {outdir}; wait until it finishes or give another --outdir"))
    try:
        file.write_text(f"{os.getpid()} on {socket.gethostname()}\n")
    except OSError as error:
        raise write_error(file, error) from error


def _select(scans: Mapping[Path, Scan], ids: set[str]) -> dict[Path, list[Line]]:
    """Return the lines that stay in each file."""
    good = {line.record["id"] for found in scans.values() for line in found.lines if "error" not in line.record}
    kept: dict[Path, list[Line]] = {path: [] for path in scans}
    seen: set[str] = set()
    for path, found in scans.items():
        for line in found.lines:
            key, failed = line.record["id"], "error" in line.record
            if key not in seen and not (failed and (key in good or key in ids)):
                seen.add(key)
                kept[path].append(line)
    return kept


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


def read_config(outdir: Path) -> dict[str, Any]:
    """Return the configuration of a run, of any format, its hash included.

    Raises:
        RainError: config.json is missing or is not a JSON object.
    """
    file = outdir / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise RainError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise RainError(f"{file} is not JSON ({error}); give another --outdir") from error
    if not isinstance(config, dict):
        raise RainError(f"{file} is not a JSON object; give another --outdir")
    return config


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the fields in which two configurations differ, with both values; an empty text if none does.

    Args:
        old: the configuration of the existing results; JSON values in nested mappings.
        new: the configuration of this run.
    """
    before, now = _flatten(old), _flatten(new)
    names = [name for name in {**before, **now} if before.get(name, _ABSENT) != now.get(name, _ABSENT)]
    shown = [f"{name}: {_short(before, name)} there, {_short(now, name)} here" for name in names[:_SHOWN_FIELDS]]
    more = [f"and {len(names) - _SHOWN_FIELDS} more fields"] if len(names) > _SHOWN_FIELDS else []
    return "; ".join(shown + more)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _short(config: Mapping[str, Any], name: str) -> str:
    text = json.dumps(config[name], ensure_ascii=False) if name in config else _ABSENT
    return text if len(text) <= 60 else text[:57] + "..."
