"""The directory of one run: its configuration, its records, and how a run resumes where it stopped.

- OUTDIR/config.json: the format of the directory, the whole configuration and its hash, and what it was applied to
- OUTDIR/prompts.json: the ids of the data set, each with a digest of its further fields; no other records count
- OUTDIR/left_out.json: the same of prompts that have records, but have left the data set
- OUTDIR/res_<i>.jsonl: the records of worker i; res_lost.jsonl: those of prompts that were given up
- OUTDIR/.lock: locked by the run in progress, which alone writes here

Files may be read by whom the umask lets: they contain prompts and answers, so set it (077) on a shared machine.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rain.core.errors import RainError
from rain.results.differences import differences, shown
from rain.results.files import locked, write_atomic, write_error
from rain.results.inputs import Inputs, same_weights
from rain.results.jsonl import Record, ResultWriter, encode_json, read_records

FORMAT = 2
"""Value of `format` in config.json; directories with another one can be read, but not resumed."""

_RESULTS = re.compile(r"res_(\d+|lost)\.jsonl")
_TEMPORARY = (".config.json.*.tmp", ".prompts.json.*.tmp", ".left_out.json.*.tmp")


class RunDir:
    """Opens or creates the directory of a run and keeps it locked until `close` or the end of the process.

    Args:
        path: the directory; missing parents are created.
        config: everything that a record depends on; JSON values in nested mappings (tuples become lists).
        config_hash: names this configuration.
        details: more for config.json, by section; it may differ when the run is resumed.
        inputs: what it is applied to.

    Attributes:
        path: the directory.
        left_out: records of prompts that are not in the data set; set by `resume` (count).

    Raises:
        RainError: another run uses the directory, its results have a different configuration, other weights or another
            format, or it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        config_hash: str,
        details: Mapping[str, Any],
        inputs: Inputs,
    ) -> None:
        self.path, self.left_out = Path(path), 0
        self._prompts = inputs.prompts
        self._writers: dict[int | str, ResultWriter] = {}
        with ExitStack() as opened:
            _lock(self.path, opened)
            self._put_config({"format": FORMAT, "hash": config_hash, **config}, {**details, **inputs.as_dict()})
            for leftover in (file for name in _TEMPORARY for file in self.path.glob(name)):
                leftover.unlink(missing_ok=True)
            self._opened = opened.pop_all()

    def _put_config(self, config: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        """Write config.json, unless what is there forbids it; without records, any earlier configuration may change."""
        file = self.path / "config.json"
        new = json.loads(encode_json({**config, **details}))
        old = read_config(self.path) if file.exists() else None
        if old is not None and old.get("format") != FORMAT:
            raise RainError(
                f"{self.path} is not a folder of this version of RAIN (in config.json, 'format' is "
                f"{shown(old, 'format')}, not {FORMAT}) and cannot be continued; give another --outdir"
            )
        if any(next(read_records(path), None) for path in result_paths(self.path)):
            if old is None:
                raise RainError(f"{self.path} contains results but no config.json; give another --outdir")
            known = bool(old.get("weights") and new.get("weights"))
            if known and same_weights(old["weights"], new["weights"]):
                new["weights"] = old["weights"]
            ignored = {"hash", *details} - ({"weights"} if known else set())
            self._compare(*({k: v for k, v in each.items() if k not in ignored} for each in (old, new)))
            if old.get("weights"):
                new["weights"] = old["weights"]  # even if they are not known here
        self._put(file, encode_json(new, indent=2) + b"\n")

    def _put(self, file: Path, data: bytes) -> None:
        """Write a file unless it is there: a resumed run on a full disk needs no room for what is the same."""
        if not file.exists() or file.read_bytes() != data:
            write_atomic(file, data)

    def _compare(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        if differing := differences(old, new):
            raise RainError(
                f"{self.path} contains results of a different configuration ({differing}); "
                "give another --outdir, or the settings of the first run"
            )

    def resume(self, ids: Collection[str]) -> set[str]:
        """Prepare the result files for a run over these prompts, and return those that need no work.

        Torn last lines are removed, in place. All other lines stay, also those of failures, which are tried again.

        Raises:
            RainError: a file is damaged before its last line, or cannot be written, or prompts that have records have
                other further fields than before.
        """
        known, wanted = self._known(), set(ids)
        changed = {id for id, digest in self._prompts.items() if known.get(id, digest) != digest}
        done, found, others = set[str](), set[str](), set[str]()
        for path in result_paths(self.path):
            ResultWriter(path).close()  # which removes a torn last line
            for _, record in read_records(path):
                id = record["id"]
                if id in changed:
                    found.add(id)
                elif id not in self._prompts:
                    others.add(id)
                elif "error" not in record and id in wanted:
                    done.add(id)
        if found:
            raise RainError(
                f"{self.path} contains records of {len(found)} prompts whose further fields (reference answers ...) "
                f"have changed ({min(found)} ...); give another --outdir, or the data set of the first run"
            )
        self.left_out = len(others)
        if gone := {id: known[id] for id in sorted(others & known.keys())}:
            self._put(self.path / "left_out.json", encode_json(gone, indent=0) + b"\n")
        self._put(self.path / "prompts.json", encode_json(self._prompts, indent=0) + b"\n")
        return done

    def know_weights(self, weights: str) -> None:
        """Add the fingerprint of weights that were fetched only after the run began."""
        file = self.path / "config.json"
        self._put(file, encode_json({**_read_json(file), "weights": weights}, indent=2) + b"\n")

    def _known(self) -> dict[str, str]:
        """Return the prompts of the last run here, and those with records that had left its data set: they may return.

        Each comes with the digest of its further fields.
        """
        files = (self.path / name for name in ("left_out.json", "prompts.json"))
        return {id: digest for file in files if file.exists() for id, digest in _read_json(file).items()}

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
    if outdir.is_file():
        raise RainError(f"{outdir} is a file; give --outdir the name of a folder")
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


def result_paths(outdir: Path) -> list[Path]:
    """Return the result files of a run, those of the workers in order (res_2 before res_10); no copies of them."""
    paths = (path for path in outdir.glob("res_*.jsonl") if _RESULTS.fullmatch(path.name))
    return sorted(paths, key=lambda path: (len(path.stem), path.stem))


def iter_results(outdir: Path) -> Iterator[Record]:
    """Yield one record per prompt, by id, without keeping them: the last one, failures only where there is no answer.

    Raises:
        RainError: there is no such directory, or a file is damaged before its last line.
    """
    if not outdir.is_dir():
        raise RainError(f"there is no directory {outdir}")
    best: dict[str, tuple[bool, Path, int]] = {}
    paths = result_paths(outdir)
    for path in paths:
        for offset, record in read_records(path):
            failed = "error" in record
            if not failed or best.get(record["id"], (True,))[0]:
                best[record["id"]] = failed, path, offset
    with ExitStack() as opened:
        files = {path: opened.enter_context(open(path, "rb")) for path in paths}
        for id in sorted(best):
            _, path, offset = best[id]
            files[path].seek(offset)
            yield json.loads(files[path].readline())


def read_config(outdir: Path) -> dict[str, Any]:
    """Return the configuration of a run, of any format, its hash included.

    Raises:
        RainError: config.json is missing or is not a JSON object.
    """
    return _read_json(outdir / "config.json")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise RainError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RainError(f"{file} is not JSON ({error}); give another --outdir") from error
    if not isinstance(content, dict):
        raise RainError(f"{file} is not a JSON object; give another --outdir")
    return content
