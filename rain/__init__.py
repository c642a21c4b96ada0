"""RAIN: rewindable auto-regressive inference (arXiv 2309.07124).

The method, without any model: ``RainConfig``, ``Problem``, ``Search``, ``Commit``. A model with a benchmark's prompts
and templates: ``rain.settings.make_settings`` and ``rain.runner.open_runner``.
"""

from rain.config import RainConfig
from rain.errors import RainError
from rain.problem import Problem
from rain.search import Commit, Search

__all__ = ["Commit", "Problem", "RainConfig", "RainError", "Search"]
