"""Records: one JSON object per line, each on disk before the next begins.

A record is a JSON object with a text field `id`; one with the field `error` tells of a prompt that failed. Only the
last line of a file can be torn, since every line is synced before the next one starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.results.files import sync_directory, write_error

Record = dict[str, Any]


class Line(NamedTuple):
    """One record of a file: its bytes without the newline, and what they say."""

    raw: bytes
    record: Record


class Scan(NamedTuple):
    """What a file of records contains.

    Attributes:
        lines: every whole record, in order.
        good_size: length of the part that ends with the last whole record, its newline included if it has one (bytes).
        size: length of the file (bytes); larger than `good_size` if the last line is torn.
        newline: whether the last whole record has its newline.
    """

    lines: list[Line]
    good_size: int
    size: int
    newline: bool

    @property
    def torn(self) -> bool:
        """Whether the file ends with a part of a record, or with a record without its newline."""
        return self.size > self.good_size or not self.newline


def encode_json(value: object, indent: int | None = None) -> bytes:
    """Return JSON in UTF-8; a lone surrogate, which UTF-8 cannot express, becomes its JSON escape.

    Raises:
        ValueError: a number is infinite or not a number, which JSON cannot express.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")


def scan(path: Path) -> Scan:
    """Read a file of records; a torn last line is left out.

    Raises:
        RainError: the file cannot be read, or a line before the last is damaged; the message names file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RainError(f"cannot read {path}: {error.strerror}") from error
    lines: list[Line] = []
    offset = good_size = 0
    bad_line = 0
    for number, raw in enumerate(data.split(b"\n"), start=1):
        offset += len(raw) + 1
        if not raw.strip():
            continue
        if bad_line:
            raise RainError(f"{path}, line {bad_line} is not a result record; fix or delete that line")
        record = _parse(raw)
        if record is None:
            bad_line = number
        else:
            lines.append(Line(raw, record))
            good_size = min(offset, len(data))
    return Scan(lines, good_size, len(data), newline=not lines or data[good_size - 1 : good_size] == b"\n")


def _parse(raw: bytes) -> Record | None:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("id"), str) else None


class ResultWriter:
    """Appends records to a file that no other process writes; a torn last line is repaired on opening.

    Args:
        path: the file, created if need be; its directory must exist.

    Raises:
        RainError: the file is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            self._size = self._repair(scan(path))
        except BaseException:
            self.close()
            raise

    def _repair(self, found: Scan) -> int:
        try:
            os.ftruncate(self._descriptor, found.good_size)
            if not found.newline:
                os.write(self._descriptor, b"\n")
            os.fsync(self._descriptor)
            sync_directory(self.path.parent)
        except OSError as error:
            raise write_error(self.path, error) from error
        return os.fstat(self._descriptor).st_size

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; after return it is on disk.

        Raises:
            RainError: the disk is full or fails; the file is then as it was before the call.
            ValueError: a number in the record is infinite or not a number.
        """
        data = encode_json(dict(record)) + b"\n"
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except BaseException as error:
            with suppress(OSError):  # what is left then is torn, and repaired on the next opening
                os.ftruncate(self._descriptor, self._size)
            if isinstance(error, OSError):
                raise write_error(self.path, error) from error
            raise
        self._size += len(data)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
