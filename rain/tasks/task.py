"""What differs between tasks, as data; everything else is shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rain.core.config import RainConfig
from rain.data.datasets import Reader
from rain.stopping import TextStopPolicy
from rain.text import TokenizerAdapter


@dataclass(frozen=True)
class Task:
    """A benchmark, or a goal of your own (docs/goals.md).

    Attributes:
        name: short name, the first part of every prompt id.
        folder: where its data sets and ``templates/`` are.
        reader: what a row of its data sets means.
        dataset: the data set that is used when none is named: a file in ``folder``.
        config: its constants (table of the algorithm).
        template: self-evaluation template, a path relative to ``folder``.
        prompt: prompt file, a path relative to ``folder``.
        stop_strings: texts that end a response, besides the EOS token.
        to_end: roll out to the end of the response instead of the next pause.
        rollout_limit: maximum length of a rollout (tokens); 0: as long as the response may be.
        cut_after_full_stop: judge a response only up to its last full stop.
        aim: what an answer must be, for the methods that tell the model so; empty: its answers continue a text.
        targets: goals that --target offers, the first by default; the second inverts the scores.
        presets: settings by model name that replace defaults; they are printed and recorded. Files in them are paths
            relative to ``folder``.
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
    aim: str = ""
    targets: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return a file of the task's folder."""
        return (self.folder / name).resolve()

    def policy(self, adapter: TokenizerAdapter) -> TextStopPolicy:
        """Return what ends a response, and a rollout, in this task."""
        return TextStopPolicy(adapter, self.stop_strings, self.to_end, self.rollout_limit, adapter.pausing_tokens())


def data_folder(name: str) -> Path:
    """Return the folder of a task that comes with RAIN: the copy in an installed package, or the one in the checkout.

    Never a folder of the current directory: where a file is says nothing about who wrote it.
    """
    package = Path(__file__).resolve().parents[1]
    packaged, checkout = package / "tasks" / "files" / name, package.parent
    return checkout / name if not packaged.is_dir() and (checkout / "pyproject.toml").is_file() else packaged
