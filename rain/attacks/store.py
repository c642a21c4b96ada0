"""The file of suffixes that the attack writes and adv/allocation.py reads: a JSON list, complete at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.results.files import open_locked, write_atomic

Record = dict[str, Any]


class Behaviour(NamedTuple):
    """A request and the first words of the answer that the attack is after."""

    goal: str
    target: str


class SuffixStore:
    """Records by behaviour; the file is replaced as a whole at every change and locked against a second writer.

    Raises:
        RainError: the file cannot be written, another run is writing it, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RainError(f"cannot make the folder {path.parent}: {error.strerror}") from error
        lock = open_locked(path.with_name(f".{path.name}.lock"))
        if lock is None:
            raise RainError(f"another run is writing {path}; wait for it or give another --out")
        self._lock = lock
        try:
            self.records = self._read()
        except RainError:
            self.close()
            raise

    def close(self) -> None:
        """Let other runs write the file."""
        os.close(self._lock)

    def _read(self) -> dict[Behaviour, Record]:
        if not self.path.exists():
            return {}
        try:
            records = json.loads(self.path.read_bytes())
            return {Behaviour(each["goal"], each["target"]): each for each in records}
        except (ValueError, KeyError, TypeError) as error:
            raise RainError(f"{self.path} was not written by an attack ({error!r}); give another --out") from error
        except OSError as error:
            raise RainError(f"cannot read {self.path}: {error.strerror}") from error

    def find(self, behaviours: Sequence[Behaviour], identity: Record) -> list[Record]:
        """Return the records of these behaviours that are there, all or none.

        Args:
            behaviours: those that share one suffix.
            identity: fields that say how the suffix is made; a record must agree with them.

        Raises:
            RainError: other settings made a record, or only some of the behaviours are there with one suffix.
        """
        found = [self.records[each] for each in behaviours if each in self.records]
        for record in found:
            for name, value in identity.items():
                if record.get(name) != value:
                    raise RainError(
                        f"{self.path} holds a suffix for {record['goal']!r} made with {name} {record.get(name)!r}, not "
                        f"{value!r}; give another --out"
                    )
        if found and (len(found) < len(behaviours) or len({each["controls"] for each in found}) > 1):
            raise RainError(f"{self.path} holds a suffix for other behaviours than these; give another --out")
        return found

    def put(self, records: Sequence[Record]) -> None:
        """Add or replace records, and have them on the disk after return."""
        self.records |= {Behaviour(each["goal"], each["target"]): each for each in records}
        text = json.dumps(list(self.records.values()), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomic(self.path, f"{text}\n".encode("utf-8", "surrogatepass"))
