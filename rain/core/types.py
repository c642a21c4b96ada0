"""Types that everything shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = tuple[int, ...]
"""Token ids."""

Vector = NDArray[np.floating[Any]]
"""Floating-point numbers, shape (size,): an embedding, the weights of a read-out or what read-outs say."""

Json = dict[str, Any]
"""A JSON object."""
