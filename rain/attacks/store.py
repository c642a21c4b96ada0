"""The file of suffixes that the attack writes and adv/allocation.py reads: a JSON list, complete at any time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.results.files import locked, write_atomic

Record = dict[str, Any]

KINDS: Mapping[str, type | tuple[type, ...]] = {
    "controls": str,
    "steps": int,
    "success": bool,
    "loss": (int, float),
    "initial_loss": (int, float),
    "initial_answers": dict,
}
"""Fields of a record that an attack wrote (such a record has the field `model`, too), and their types."""


class Behaviour(NamedTuple):
    """A request, and the first words of the answer that the attack wants."""

    goal: str
    target: str


@contextmanager
def open_store(path: Path) -> Iterator[SuffixStore]:
    """Open the file, which no other run can write until the block ends.

    Raises:
        RainError: the file cannot be written, another run is writing it, or it is not a file of suffixes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RainError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    busy = f"another run is writing {path}; wait until it finishes or give another --out"
    with locked(path.with_name(f".{path.name}.lock"), busy):
        yield SuffixStore(path, _read(path))


def _read(path: Path) -> dict[Behaviour, Record]:
    if not path.exists():
        return {}
    try:
        records = json.loads(path.read_bytes())
        for name, kind in KINDS.items():
            if wrong := [each for each in records if "model" in each and not isinstance(each.get(name), kind)]:
                raise TypeError(f"the field {name!r} of a record is {wrong[0].get(name)!r}")
        return {Behaviour(each["goal"], each["target"]): each for each in records}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RainError(f"{path} was not written by an attack ({error!r}); give another --out") from error
    except OSError as error:
        raise RainError(f"cannot read {path}: {error.strerror}") from error


@dataclass
class SuffixStore:
    """Records by behaviour; the file is replaced as a whole at every change."""

    path: Path
    records: dict[Behaviour, Record]

    def find(self, behaviours: Sequence[Behaviour], identity: Record) -> list[Record]:
        """Return the records of these behaviours, all or none.

        Args:
            behaviours: those that share one suffix.
            identity: fields that say how the suffix is made; a record must agree with them.

        Raises:
            RainError: other settings made a record, or the suffix is for other behaviours.
        """
        found = [self.records[each] for each in behaviours if each in self.records]
        for record in found:
            for name, value in identity.items():
                if record.get(name) != value:
                    raise RainError(
                        f"{self.path} has a suffix for {record['goal']!r} made with {name} {record.get(name)!r}, not "
                        f"{value!r}; give another --out"
                    )
        if found and (len(found) < len(behaviours) or len({each["controls"] for each in found}) > 1):
            raise RainError(f"{self.path} has a suffix for other behaviours than these; give another --out")
        return found

    def put(self, records: Sequence[Record]) -> None:
        """Add or replace records; they are on disk after return."""
        self.records |= {Behaviour(each["goal"], each["target"]): each for each in records}
        text = json.dumps(list(self.records.values()), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomic(self.path, f"{text}\n".encode("utf-8", "surrogatepass"))
