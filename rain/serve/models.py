"""The models of a server: their ids, and how each of them answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from rain.serve.errors import ApiError

USUAL_DRAFTS, MOST_DRAFTS = 16, 64
"""Of best-of-N: what the list of models shows, and what may be asked for."""


class Served(NamedTuple):
    """How a model answers.

    Attributes:
        plain: greedily, without RAIN.
        drafts: as the best of so many drafts; 0: by the method of the settings.
    """

    plain: bool = False
    drafts: int = 0


class Models:
    """The ids that clients may name.

    Args:
        name: of the language model; of a folder or file only the last part is told.
    """

    def __init__(self, name: str) -> None:
        path = Path(name).expanduser()
        self.name = path.resolve().name if path.is_absolute() or path.exists() or name.startswith("~") else name
        best = f"best-of-{USUAL_DRAFTS}/{self.name}"
        self._served = {f"rain/{self.name}": Served(), self.name: Served(plain=True), best: Served(drafts=USUAL_DRAFTS)}

    @property
    def ids(self) -> list[str]:
        """What is listed; ``best-of-N`` with another N from 1 to 64 is answered, too."""
        return list(self._served)

    def find(self, id: str) -> Served:
        """Return how a model answers.

        Raises:
            ApiError: 404, there is no such model.
        """
        if id in self._served:
            return self._served[id]
        best = re.fullmatch(r"best-of-([1-9][0-9]?)/(.+)", id)
        if best and best[2] == self.name and int(best[1]) <= MOST_DRAFTS:
            return Served(drafts=int(best[1]))
        raise ApiError(404, f"there is no such model here; there are {', '.join(self.ids)}", "model_not_found", "model")
