"""Types that everything shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = tuple[int, ...]
"""Token ids."""

Vector = NDArray[np.floating[Any]]
"""One sentence embedding, shape (size,)."""

Json = dict[str, Any]
"""A JSON object."""
