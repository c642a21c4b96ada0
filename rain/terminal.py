"""Text of models, servers and files on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text with control characters, other than newlines and tabs, as escapes: it cannot steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
