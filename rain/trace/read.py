"""Reads recorded searches, also one that is being written, or whose end is torn."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.trace.record import FORMAT

GZIP, BLOCK = 31, 1 << 16

Event = dict[str, Any]


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

    events: list[Event]
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
    events = list(_events(Path(path), part.data))
    if not events or events[0].get("event") != "search":
        raise RainError(f"{path} is not a recorded search: its first event is not 'search'")
    if events[0].get("format") != FORMAT:
        raise RainError(f"{path} has format {events[0].get('format')!r}; this version of RAIN reads format {FORMAT}")
    return Trace(events, part.rest)


def read_part(path: Path, start: int = 0) -> Part:
    """Return the whole members from ``start`` (bytes) on, where a member begins.

    Raises:
        RainError: the file cannot be read, or what begins there is not a member.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(start)
            raw = file.read()
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


def _events(path: Path, data: bytes) -> Iterator[Event]:
    for number, line in enumerate(data.splitlines(), 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RainError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(event, dict) or "event" not in event:
            raise RainError(f"{path}, line {number} is not an event of a search")
        yield event
