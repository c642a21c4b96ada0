"""What differs between benchmarks, as data; everything else is shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rain.core.config import RainConfig
from rain.data.datasets import Reader


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: short name, the first part of every prompt id.
        folder: the benchmark's folder, with ``templates/`` and its data.
        reader: what a row of its data sets means.
        dataset: the data set that is used when none is named: a file in ``folder``.
        config: its constants (table of the algorithm).
        template: self-evaluation template, a path relative to ``folder``.
        prompt: prompt file, a path relative to ``folder``.
        stop_strings: texts that end a response, besides end-of-sequence.
        to_end: roll out to the end of the response instead of the next pause.
        rollout_limit: tokens of a rollout, at most; 0: as many as the response may have.
        cut_after_full_stop: judge a response only up to its last full stop.
        targets: goals that --target offers, the first by default; the second turns the scores round.
        presets: settings by model name that stand in for defaults; they are printed and recorded.
    """

    name: str
    folder: Path
    reader: Reader
    dataset: str
    config: RainConfig
    template: str
    prompt: str = "templates/prompt.txt"
    stop_strings: tuple[str, ...] = ()
    to_end: bool = False
    rollout_limit: int = 0
    cut_after_full_stop: bool = False
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    targets: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Return a file of the benchmark's folder."""
        return (self.folder / name).resolve()
