"""Records: one JSON object per line, each on disk before the next begins.

A record is a JSON object with a text field `id`; one with the field `error` tells of a prompt that failed. Only the
last line of a file can be torn, since every line is synced before the next one starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rain.core.errors import RainError
from rain.results.files import sync_directory, write_error

Record = dict[str, Any]

PROMPTS_OWN = "_own"
"""Field of a record with ``error`` on its way to the file: the prompt is wrong, whatever answers it."""


class Scan(NamedTuple):
    """A file of records, seen from its end.

    Attributes:
        good_size: length of the part that ends with the last whole record, its newline included if it has one (bytes).
        torn: whether a part of a record follows.
        newline: whether the last whole record has its newline.
    """

    good_size: int
    torn: bool
    newline: bool


def encode_json(value: object, indent: int | None = None) -> bytes:
    """Return JSON in UTF-8; a lone surrogate, which UTF-8 cannot express, becomes its JSON escape.

    Raises:
        ValueError: a number is infinite or not a number, which JSON cannot express.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")


def scan(path: Path) -> Scan:
    """Look at the end of a file of records, where the last line may be torn.

    Raises:
        RainError: the file cannot be read.
    """
    with _opened(path) as file:
        size, begin, last = 0, 0, b""
        for raw in file:
            if raw.strip():
                begin, last = size, raw
            size += len(raw)
    if _parse(last) is None:
        return Scan(begin, begin < size, True)
    return Scan(begin + len(last), False, last.endswith(b"\n"))


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield the records of a file, each with where its line begins (bytes); a torn last line is left out.

    Raises:
        RainError: the file cannot be read, or a line before the last is damaged; the message names file and line.
    """
    with _opened(path) as file:
        offset = damaged = 0
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                if damaged:
                    raise RainError(f"{path}, line {damaged} is not a result record; fix or delete that line")
                if record := _parse(raw):
                    yield offset, record
                else:
                    damaged = number
            offset += len(raw)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise RainError(f"cannot read {path}: {error.strerror}") from error


def _parse(raw: bytes) -> Record | None:
    """Return the record in a line, None if it is not one."""
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
            self._file = open(path, "ab", buffering=0)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            self._repair(scan(path))
        except BaseException:
            self.close()
            raise

    def _repair(self, found: Scan) -> None:
        try:
            self._file.truncate(found.good_size)
            if not found.newline:
                self._file.write(b"\n")
            os.fsync(self._file.fileno())
            sync_directory(self.path.parent)
        except OSError as error:
            raise write_error(self.path, error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; after return it is on disk.

        Raises:
            RainError: the disk is full or fails; the file is then as it was before the call.
            ValueError: a number in the record is infinite or not a number.
        """
        rest = encode_json(dict(record)) + b"\n"
        size = self._file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:
            with suppress(OSError):  # what is left then is torn, and repaired on the next opening
                self._file.truncate(size)
            if isinstance(error, OSError):
                raise write_error(self.path, error) from error
            raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
