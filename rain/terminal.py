"""Text of models, servers and files on a terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def printable(text: str) -> str:
    """Return text with control characters, other than newlines and tabs, as escapes: it cannot steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Return printable text in which newlines and tabs are escapes too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def escape_unencodable() -> None:
    """From now on, print characters that the terminal's encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line; if nobody reads the stream any more (`| head`), it is dropped, and the work continues."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Drop everything that is still written to a stream that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
