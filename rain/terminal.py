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


def counted(number: int, noun: str) -> str:
    """Return a number and a noun: "1 prompt", "2 prompts"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def prepare_streams() -> None:
    """From now on, print characters that the terminal lacks as escapes, and drop what goes to a closed stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started the command
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line; if nobody reads the stream any more (`| head`) or its disk is full, the work continues without."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Drop everything that is still written to a stream that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
