"""RAIN: rewindable auto-regressive inference (arXiv 2309.07124).

``Rain`` aligns text with a model; ``Search`` is the method alone, for any engine, scorer and encoder.
"""

from rain.core.config import Budget, RainConfig
from rain.core.errors import RainError
from rain.core.problem import SearchInputs
from rain.core.search import Commit, Search

__all__ = ["Budget", "Commit", "RainConfig", "RainError", "Search", "SearchInputs"]
