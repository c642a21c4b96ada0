"""Tables as text: aligned columns for a terminal, Markdown for a report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rain.terminal import one_line

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows, align: str = "<>") -> str:
    """Return rows with aligned columns, two spaces apart; control characters in cells become escapes.

    Args:
        rows: cells; the heading, if any, is the first row. A row may be shorter than the others.
        align: "<" (left) or ">" (right) for each column; the last one is for all columns that follow.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    count = max(map(len, rows), default=0)
    marks = align.ljust(count, align[-1])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(count)]
    return "\n".join(
        "  ".join(f"{cell:{mark}{width}}" for cell, mark, width in zip(row, marks, widths)).rstrip()  # noqa: B905
        for row in rows
    )


def markdown_table(head: Sequence[str], body: Rows) -> str:
    """Return a Markdown table whose columns are padded to the same width; see `markdown_text` for its cells."""
    rows = [[markdown_text(cell) for cell in row] for row in [head, *body]]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """Return text as one line without control characters, which Markdown reads as no HTML, heading, code or link."""
    return re.sub(r"^#|[|<`\\]|(?<=\])\(", r"\\\g<0>", one_line(text))
