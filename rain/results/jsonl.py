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

_BLOCK = 1 << 16


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
        size = start = file.seek(0, os.SEEK_END)
        tail, block = b"", _BLOCK
        while start and b"\n" not in tail.rstrip():
            start, block = max(0, start - block), 2 * block
            file.seek(start)
            tail = file.read(size - start)
    body = tail.rstrip()
    begin = body.rfind(b"\n") + 1
    if _parse(body[begin:]) is None:
        return Scan(start + begin, start + begin < size, True)
    end = tail.find(b"\n", len(body))
    return Scan(size if end < 0 else start + end + 1, False, end >= 0)


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
    """Return the record in a line, None if it is no record."""
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
