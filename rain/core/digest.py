"""Short names of values, for records."""

from __future__ import annotations

import hashlib
import json


def digest(value: object) -> str:
    """Return sixteen hexadecimal digits that change with a JSON value; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
