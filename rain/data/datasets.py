"""Prompts from local files and hub data sets; what a row means is a task's `Reader` (rain.data.readers)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.data.rows import BadRow, Item, read_items
from rain.terminal import counted, say

_SHOWN_FAULTS = 5
_SHUFFLE_SEED = 42

Row = Mapping[str, Any]
CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a data set."""

    id: str  # task, position in the data set and a hash of the text, whatever range is run or rows are skipped
    question: str  # what the user says, verbatim
    extra: dict[str, Any] = field(default_factory=dict)  # further fields for the result record


class Fields(NamedTuple):
    """What a reader makes of one row: the question, and further fields for the result record."""

    question: str
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where a data set is on the Hugging Face hub, and which part of it is taken."""

    path: str
    split: str
    name: str | None = None  # of its configuration, if it has several
    data_dir: str | None = None  # if it has several
    shuffle: bool = False  # with seed 42, so that the first prompts are a fair sample
    below_tokens: int = 0  # keep prompts with fewer tokens than this; 0 keeps all


def _as_list(document: object) -> list[object]:
    if not isinstance(document, list):
        raise BadRow("the file must contain a list of prompts")
    return document


@dataclass(frozen=True, slots=True)
class Reader:
    """What is different about the data of a benchmark.

    Attributes:
        task: name of the task, the first part of every id.
        read: makes the fields of a prompt from a row, whose names are in lower case with underscores; returns None
            for a row without a prompt and raises `BadRow` for a broken one.
        hub: names that `--dataset` accepts in addition to paths.
        rows: makes a list of rows from a whole .json document; raises `BadRow` if it cannot.
        notice: what a user should know about the prompts of a run, or an empty text.
    """

    task: str
    read: Callable[[Row], Fields | None]
    hub: Mapping[str, HubSource] = field(default_factory=dict)
    rows: Callable[[object], list[object]] = _as_list
    notice: Callable[[Sequence[Prompt]], str] | None = None


def load_prompts(source: str | Path, reader: Reader, skip_bad: bool | None = None) -> list[Prompt]:
    """Load all prompts of a data set, overlong ones included, in its order.

    Args:
        source: path of a .jsonl, .json or .csv file, or one of the names in `reader.hub`.
        reader: what a row means.
        skip_bad: leave broken rows out, with a line on standard error, instead of refusing the data set; None: refuse
            it, and do not advise --skip-bad, which the command lacks.

    Raises:
        RainError: the data set is missing, empty, of an unknown format or has broken rows; the message names file,
            line and field.
    """
    hub = reader.hub.get(str(source))
    items = _hub_items(hub) if hub else read_items(Path(source), reader.rows, sorted(reader.hub))
    prompts, faults = _read_rows(items, reader)
    if faults:
        _refuse_or_skip(str(source), faults, skip_bad)
    if not prompts:
        raise RainError(f"{source} has no prompts")
    return prompts


def select_prompts(
    prompts: list[Prompt],
    source: str | Path,
    reader: Reader,
    start: int = 0,
    end: int | None = None,
    count_tokens: CountTokens | None = None,
) -> list[Prompt]:
    """Return a range of the prompts of a data set, at least one.

    Args:
        prompts: from `load_prompts`.
        source: names the data set.
        reader: of it.
        start: first prompt to return, from 0; prompts count after broken and overlong rows are left out.
        end: one past the last prompt to return; None means all.
        count_tokens: length of a question in tokens; needed where the hub source limits it.

    Raises:
        RainError: the range is not in the data set.
    """
    if start < 0:
        raise RainError(f"--s is {start}; it must be 0 or more")
    if end is not None and end <= start:
        raise RainError(f"--e is {end}; it must be larger than --s, which is {start}")
    taken = list(islice(_short_enough(prompts, reader.hub.get(str(source)), count_tokens), end))
    if len(taken) <= start:
        raise RainError(f"--s is {start}, but {source} has {counted(len(taken), 'prompt')}; the first one is 0")
    if end is not None and len(taken) < end:
        raise RainError(f"--e is {end}, but {source} has {counted(len(taken), 'prompt')}")
    return taken[start:]


def prompt_id(task: str, index: int, question: str) -> str:
    """Return the id of the prompt at a position (from 0) of a data set."""
    digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{task}-{index:05d}-{digest[:8]}"


def _read_rows(items: list[Item], reader: Reader) -> tuple[list[Prompt], list[str]]:
    """Return the prompts, and for each broken row its place and what is wrong."""
    prompts: list[Prompt] = []
    faults: list[str] = []
    for index, item in enumerate(items):
        try:
            fields = reader.read(item.row())
        except BadRow as error:
            faults.append(f"{item.where}: {error}")
            continue
        if fields is not None:
            prompts.append(Prompt(prompt_id(reader.task, index, fields.question), *fields))
    return prompts, faults


def _refuse_or_skip(source: str, faults: list[str], skip_bad: bool | None) -> None:
    if skip_bad:
        for fault in faults:
            say(f"rain: skipped: {source}, {fault}", sys.stderr)
        return
    advice = "" if skip_bad is None else " or pass --skip-bad"
    if len(faults) == 1:
        raise RainError(f"{source}, {faults[0]}; fix it{advice}")
    shown = "; ".join(faults[:_SHOWN_FAULTS])
    more = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
    raise RainError(f"{source} has {len(faults)} broken rows: {shown}{more}; fix them{advice}")


def _short_enough(prompts: list[Prompt], hub: HubSource | None, count_tokens: CountTokens | None) -> Iterator[Prompt]:
    if hub is None or not hub.below_tokens:
        return iter(prompts)
    if count_tokens is None:
        raise ValueError(f"{hub.path} is limited to {hub.below_tokens} tokens, so count_tokens is needed")
    return (prompt for prompt in prompts if count_tokens(prompt.question) < hub.below_tokens)


def _hub_items(hub: HubSource) -> list[Item]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise RainError(f"{hub.path} needs the package datasets ({error}); install it or give a local file") from error
    try:
        data = load_dataset(hub.path, hub.name, data_dir=hub.data_dir, split=hub.split)
    except Exception as error:  # the hub's client raises errors of several network libraries
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RainError(f"cannot load {hub.path} from the hub ({reason}); give a local file instead") from error
    if hub.shuffle:
        data = data.shuffle(seed=_SHUFFLE_SEED)
    return [Item(f"row {index}", row) for index, row in enumerate(data)]
