"""What is written down about one request."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from starlette.types import Scope


@dataclass
class Trace:
    """One request, for log and metrics.

    Attributes:
        id: of the request.
        route: which of the server's routes; "other" for any unknown path.
        key: name of the key that it came with; "" without.
        status: of the answer; 0 before it.
        fields: further ones of the log line.
        started: ``time.monotonic`` at its beginning.
    """

    id: str
    route: str = "other"
    key: str = ""
    status: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=monotonic)

    def failed(self, error: Exception) -> None:
        """Note where an error arose, but not its message, which may quote a prompt."""
        frames = traceback.extract_tb(error.__traceback__)[-5:]
        self.fields.update(error=type(error).__name__, at=[f"{frame.filename}:{frame.lineno}" for frame in frames])


def trace_of(scope: Scope) -> Trace:
    """Return the trace that the gate has put into a request's scope."""
    trace: Trace = scope["rain"]
    return trace
