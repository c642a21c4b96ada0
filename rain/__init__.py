"""RAIN: rewindable auto-regressive inference (arXiv 2309.07124).

``Rain`` aligns text with a model. ``Search`` is the method alone, for any engine, scorer and encoder.
"""

from typing import TYPE_CHECKING, Any

from rain.core.config import Budget, RainConfig
from rain.core.errors import RainError
from rain.core.problem import SearchInputs
from rain.core.search import Commit, Search

if TYPE_CHECKING:
    from rain.generation import Answer, CommittedText
    from rain.library import Rain, generate

__all__ = ["Answer", "Budget", "Commit", "CommittedText", "Rain", "RainConfig", "RainError"]
__all__ += ["Search", "SearchInputs", "generate"]

_LAZY = {"Answer": "rain.generation", "CommittedText": "rain.generation"}
_LAZY |= {"Rain": "rain.library", "generate": "rain.library"}


def __getattr__(name: str) -> Any:
    """Import what needs more than numpy only when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'rain' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
