"""Reads recorded searches, also one that is being written, or whose end is torn."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.trace.record import FORMAT

GZIP, BLOCK = 31, 1 << 16

TraceEvent = dict[str, Any]


class Part(NamedTuple):
    """The whole members of a file from some place on.

    Attributes:
        data: JSON Lines.
        end: where the first member begins that is not whole (bytes).
        rest: bytes after ``end``: a member that is being written, or a torn one.
    """

    data: bytes
    end: int
    rest: int


class Trace(NamedTuple):
    """A recorded search.

    Attributes:
        events: in order, the event "search" first.
        torn: bytes at the end of the file that cannot be read.
    """

    events: list[TraceEvent]
    torn: int

    @property
    def complete(self) -> bool:
        """Whether the search has ended."""
        return bool(self.events[-1]["event"] == "end")


def read(path: str | Path) -> Trace:
    """Return a recorded search.

    Raises:
        RainError: the file cannot be read, or is not a recorded search.
    """
    part = read_part(Path(path))
    events = list(parse_events(Path(path), part.data))
    _check(Path(path), events[0] if events else {})
    return Trace(events, part.rest)


def read_head(path: Path) -> TraceEvent | None:
    """Return the first event, None if it is not in the file yet.

    Raises:
        RainError: the file cannot be read, or is not a recorded search.
    """
    try:
        with gzip.open(path) as file:
            line = file.readline()
    except EOFError:
        return None
    except (OSError, zlib.error) as error:
        raise RainError(f"{path} is not a recorded search that can be read: {error}") from error
    if not line.endswith(b"\n"):
        return None
    head = next(parse_events(path, line), {})
    _check(path, head)
    return head


def _check(path: Path, head: TraceEvent) -> None:
    if head.get("event") != "search":
        raise RainError(f"{path} is not a recorded search: its first event is not 'search'")
    if head.get("format") not in (1, FORMAT):
        raise RainError(f"{path} has format {head.get('format')!r}; this version of RAIN reads formats 1 and {FORMAT}")
    for name in ("id", "question", "config", "asks"):
        if name not in head:
            raise RainError(f"{path} lacks the field {name!r} in its first event")


def read_part(path: Path, start: int = 0, limit: int = -1) -> Part:
    """Return the whole members from ``start`` (bytes) on, where a member begins.

    Args:
        path: of the file.
        start: where to begin.
        limit: how much of the file is read at most (bytes; -1: all).

    Raises:
        RainError: the file cannot be read, or what begins there is not a member.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(start)
            raw = file.read(limit)
    except OSError as error:
        raise RainError(f"cannot read {path}: {error.strerror}") from error
    data, end = bytearray(), 0
    while end < len(raw):
        member, text, place = zlib.decompressobj(GZIP), b"", end
        try:
            while not member.eof and place < len(raw):
                text += member.decompress(raw[place : place + BLOCK])
                place = min(place + BLOCK, len(raw))
        except zlib.error as error:
            if not end:
                raise RainError(f"{path} is not a recorded search: no gzip data at byte {start} ({error})") from error
            break
        if not member.eof:
            break
        data += text
        end = place - len(member.unused_data)
    return Part(bytes(data), start + end, max(0, size - start - end))


def parse_events(path: Path, data: bytes) -> Iterator[TraceEvent]:
    """Yield the events in JSON Lines; a RainError names the file and the line that is none."""
    for number, line in enumerate(data.splitlines(), 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RainError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(event, dict) or "event" not in event:
            raise RainError(f"{path}, line {number} is not an event of a search")
        yield event
