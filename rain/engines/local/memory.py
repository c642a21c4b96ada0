"""How many tokens the cache may hold: what is free on the model's device, divided by what a token takes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from rain.core.engine import SHARERS
from rain.core.errors import is_out_of_memory
from rain.engines.local.batch import Batch, Span
from rain.engines.local.kv_cache import SLOTS, KvTree
from rain.engines.local.model_runner import ModelRunner

GPU_SHARE, CPU_SHARE = 0.9, 0.5
"""Of the memory that is left after the weights, and on a GPU after the activations of a full pass, too."""

_measured: WeakKeyDictionary[ModelRunner, int] = WeakKeyDictionary()
"""The models of this process whose caches were measured: bytes of a token."""


def measured_cache(runner: ModelRunner, batch_tokens: int) -> int:
    """Return how many tokens may be cached, at least one.

    Args:
        runner: with the model in place; a pass is run, on a GPU a full one, and what that leaves free is counted.
        batch_tokens: query tokens of a full pass.
    """
    size = _bytes_per_token(runner, batch_tokens if runner.device.type == "cuda" else 1)
    count = max(1, int(_free(runner.device) / size))
    _measured[runner] = size
    return count


def _bytes_per_token(runner: ModelRunner, count: int) -> int:
    """Run a pass of ``count`` tokens, or of fewer if these do not fit; return the bytes of one token in the cache."""
    while True:
        batch, span = Batch(), Span(array(SLOTS), [0] * count, KvTree(runner.pool))
        span.tree.extend(span.chain, span.tokens)
        batch.compute(span)
        try:
            runner.forward(batch)
            return sum(layer[0].nbytes for layer in runner.pool.layers)
        except RuntimeError as error:
            if count == 1 or not is_out_of_memory(error):
                raise
        count //= 2


def _free(device: torch.device) -> float:
    """Return the bytes of a device that one more cache of this worker may take."""
    sharers, promised = int(os.environ.get(SHARERS, 1)), _promised(device)
    if device.type != "cuda":
        return CPU_SHARE * max(0, free_cpu_memory() / sharers - promised)
    free, total = torch.cuda.mem_get_info(device)
    return GPU_SHARE * max(0, min(free, total // sharers - torch.cuda.memory_reserved(device)) - promised)


def _promised(device: torch.device) -> int:
    """Return the bytes that the caches of this worker's other models, such as an evaluator's, may still take."""
    here = [(runner.pool, size) for runner, size in _measured.items() if runner.device == device]
    held = sum(layer.nbytes for pool, _ in here for layer in pool.layers)
    return max(0, sum(pool.limit * size for pool, size in here) - held)


def free_cpu_memory(root: Path = Path("/")) -> int:
    """Return the bytes of main memory that this process may still take: of the machine, and of its control groups.

    Args:
        root: where ``proc`` and ``sys`` are (Linux); elsewhere 8 GiB are taken to be free.
    """
    found = [_number(root / "proc/meminfo", "MemAvailable:", 1024)]
    found += [_left(folder) for folder in _control_groups(root)]
    return min((bytes for bytes in found if bytes is not None), default=8 << 30)


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's memory groups, of either version, and of those around them."""
    mounts = {"": root / "sys/fs/cgroup", "memory": root / "sys/fs/cgroup/memory"}
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds in mounts:
            inside = Path(path.lstrip("/"))
            yield from (mounts[kinds] / part for part in (inside, *inside.parents))


def _left(group: Path) -> int | None:
    """Return a group's limit less what it holds, files that the kernel can drop not counted; None: no limit."""
    for limit, used, files in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, held = _number(group / limit), _number(group / used)
        if most is not None and held is not None:
            return max(0, most - held + (_number(group / "memory.stat", files) or 0))
    return None


def _number(file: Path, name: str = "", unit: int = 1) -> int | None:
    """Return the number in a file, or the one after a name, times its unit; None if there is none."""
    try:
        words = file.read_text().split()
        return int(words[words.index(name) + 1 if name else 0]) * unit
    except (OSError, ValueError, IndexError):
        return None
