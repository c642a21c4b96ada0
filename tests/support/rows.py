"""Files of rows."""

from __future__ import annotations

import json
from pathlib import Path


def save_rows(path: Path, *rows: object) -> Path:
    """Write a .jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
