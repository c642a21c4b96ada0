"""What a command writes to when the program after it in a pipe has ended (`| head`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def unread() -> Iterator[TextIO]:
    """Yield a stream that nobody reads any more: the first line written to it fails."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        yield stream
