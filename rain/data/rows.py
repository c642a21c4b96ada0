"""Rows of local .jsonl, .json and .csv files, each with its place in the file; broken ones are kept and named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError

_LONGEST_CELL = 1 << 27  # characters; the csv module's own limit is in the way of long prompts


class BadRow(ValueError):
    """A row or document that cannot be read; the message says what is wrong, without the place."""


class Item(NamedTuple):
    """One row as it was found."""

    where: str  # such as "line 7"
    value: object  # its content, or a `BadRow` that says why it cannot be read

    def row(self) -> dict[str, Any]:
        """Return the row with names in lower case and underscores ("Best Answer" becomes "best_answer").

        Raises:
            BadRow: it cannot be read or is not an object.
        """
        if isinstance(self.value, BadRow):
            raise self.value
        if not isinstance(self.value, dict):
            raise BadRow(f"must be an object, not {kind(self.value)}")
        row = {normal(name): value for name, value in self.value.items()}
        if len(row) < len(self.value):
            raise BadRow(f"field {_repeated(map(normal, self.value))!r} is there twice")
        return row


def normal(name: object) -> str:
    """Return a field's name in lower case with underscores."""
    return "_".join(str(name).lower().split())


def _repeated(names: Iterable[str]) -> str | None:
    """Return the first name that comes a second time."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object, whose names must differ: of two values one would be lost."""
    if (name := _repeated(name for name, _ in pairs)) is not None:
        raise BadRow(f"field {name!r} is there twice")
    return dict(pairs)


def kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def text(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return a field that must be text.

    Args:
        row: the row.
        name: the field.
        default: of a field that is missing or null; None means that the field is required.

    Raises:
        BadRow: the field is missing or is not text.
    """
    value = row.get(name)
    if value is None and default is not None:
        return default
    if name not in row:
        raise BadRow(f"field {name!r} is missing")
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} must be text, not {kind(value)}")
    return value


def read_items(path: Path, rows: Callable[[object], list[object]], names: list[str]) -> list[Item]:
    """Read every row of a file; broken rows become items with a `BadRow`.

    Args:
        path: a .jsonl, .json or .csv file in UTF-8, with or without a byte order mark.
        rows: makes a list of rows from a .json document.
        names: data sets that the user may have meant instead of a path; for the messages.

    Raises:
        RainError: the file is missing, not of these kinds, or cannot be read as a whole.
    """
    kinds = {".jsonl": _jsonl, ".json": lambda path, data: _json(path, data, rows), ".csv": _csv}
    read = kinds.get(path.suffix.lower())
    known = f" or one of these names: {', '.join(names)}" if names else ""
    if not path.is_file():
        raise RainError(f"there is no file {path}; give a .jsonl, .json or .csv file{known}")
    if read is None:
        raise RainError(f"{path} has an unknown extension; give a .jsonl, .json or .csv file{known}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RainError(f"cannot read {path}: {error.strerror}") from error
    return list(read(path, data.removeprefix(b"\xef\xbb\xbf")))


def _jsonl(path: Path, data: bytes) -> Iterator[Item]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield Item(f"line {number}", _parse_line(line))


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except BadRow as error:
        return error
    except json.JSONDecodeError as error:
        return BadRow(f"not JSON ({error.msg}, column {error.colno})")
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8 (byte {error.start + 1} of the line)")
    except (ValueError, RecursionError) as error:
        return BadRow(f"unreadable JSON ({error})")


def _json(path: Path, data: bytes, rows: Callable[[object], list[object]]) -> Iterator[Item]:
    content = _decode(path, data)
    try:
        values = rows(json.loads(content.rstrip(), object_pairs_hook=_object))
    except json.JSONDecodeError as error:
        hint = "; a file with one object per line must be called .jsonl" if error.msg == "Extra data" else ""
        raise RainError(f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno}){hint}") from error
    except BadRow as error:
        raise RainError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RainError(f"{path}: unreadable JSON ({error})") from error
    for number, value in enumerate(values, start=1):
        yield Item(f"item {number}", value)


def _csv(path: Path, data: bytes) -> Iterator[Item]:
    csv.field_size_limit(_LONGEST_CELL)
    table = csv.reader(io.StringIO(_decode(path, data), newline=""), strict=True)
    header, end = list[str](), 0
    try:
        for cells in table:
            where, end = f"line {end + 1}", table.line_num
            if not header:
                header = cells
                if (name := _repeated(map(normal, cells))) is not None:
                    raise RainError(f"{path}, {where}: two columns are called {name!r}; rename one")
            elif len(cells) == len(header):
                yield Item(where, dict(zip(header, cells, strict=True)))
            elif cells:
                yield Item(where, BadRow(f"{len(cells)} cells, but the header has {len(header)}"))
    except csv.Error as error:  # what follows could be the inside of a quoted field: nothing of it can be trusted
        raise RainError(f"{path}, line {end + 1}: not CSV ({error}); fix it, --skip-bad cannot") from error


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RainError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error
