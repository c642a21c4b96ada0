"""A tree's part of a packed pass: which of its tokens are computed, and which keys each of them may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from rain.engines.local.kv_cache import KvTree


class Run(NamedTuple):
    """Consecutive tokens of one chain that are computed in a pass.

    Attributes:
        chain: slots from the root to the last of them.
        fresh: how many at the end of the chain are computed; each sees the chain up to itself.
    """

    chain: Sequence[int]
    fresh: int


class TreeQueries:
    """What is computed of one tree in one pass.

    Attributes:
        tree: the slots exist already; their keys and values may not.
        known: number of slots that stood in the tree before this pass.
        runs: in the order of their rows.
        rows: slot -> row of this tree's part of the pass.
    """

    def __init__(self, tree: KvTree) -> None:
        self.tree = tree
        self.known = len(tree)
        self.runs: list[Run] = []
        self.rows: dict[int, int] = {}

    def add(self, chain: Sequence[int], count: int) -> None:
        """Compute the last ``count`` slots of a chain."""
        self.runs.append(Run(chain, count))
        for slot in chain[len(chain) - count :]:
            self.rows[slot] = len(self.rows)


@dataclass(slots=True)
class Segment:
    """Keys that the queries of a tree attend to: a block of a tree's slots, or an index of them."""

    tree: KvTree
    block: slice | torch.Tensor
    positions: np.ndarray[Any, Any]
    allowed: np.ndarray[Any, Any] | None


def leading_block(run: Run) -> int:
    """Return the largest t so that slots 0 .. t - 1 begin the chain and every query of the run sees them all."""
    low, high = 0, len(run.chain) - run.fresh + 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if run.chain[middle - 1] == middle - 1 else (low, middle - 1)
    return low


class TreePart:
    """A tree's part of a pass: where its queries stand, and what they may see."""

    def __init__(self, queries: TreeQueries, start: int, device: torch.device) -> None:
        tree = queries.tree
        self.tree = tree
        self.rows = slice(start, start + len(queries.rows))
        self.slots = torch.tensor(list(queries.rows), device=device)
        self.positions = np.array([tree.depths[slot] for slot in queries.rows])
        self.segments: list[Segment] = []
        if tree.base:
            length = tree.base_length
            self.segments.append(Segment(tree.base, slice(0, length), np.arange(length), None))
        block = min(map(leading_block, queries.runs))
        if block:
            self.segments.append(Segment(tree, slice(0, block), np.arange(block) + tree.base_length, None))
        self._add_branches(queries, block, device)
        self._masks: dict[int, list[torch.Tensor | None]] = {}

    def _add_branches(self, queries: TreeQueries, block: int, device: torch.device) -> None:
        """Index the slots beyond the common block; each query sees those on its own chain."""
        columns: dict[int, int] = {}
        for run in queries.runs:
            for slot in run.chain[block:]:
                columns.setdefault(slot, len(columns))
        if not columns:
            return
        allowed = np.zeros((len(queries.rows), len(columns)), dtype=bool)
        row = 0
        for run in queries.runs:
            seen = np.array([columns[slot] for slot in run.chain[block:]], dtype=np.intp)
            for length in range(len(seen) - run.fresh + 1, len(seen) + 1):
                allowed[row, seen[: max(length, 0)]] = True
                row += 1
        index = torch.tensor(list(columns), device=device)
        positions = np.array([self.tree.depths[slot] for slot in columns])
        self.segments.append(Segment(self.tree, index, positions, None if allowed.all() else allowed))

    def masks(self, window: int, device: torch.device) -> list[torch.Tensor | None]:
        """Return for each segment which key (column) a query (row) must not see; None: it sees all of them.

        Args:
            window: a query sees keys fewer than this many positions back (sliding-window layers); 0: all keys.
            device: where the masks are needed.
        """
        if window not in self._masks:
            self._masks[window] = [self._mask(segment, window, device) for segment in self.segments]
        return self._masks[window]

    def _mask(self, segment: Segment, window: int, device: torch.device) -> torch.Tensor | None:
        allowed = segment.allowed
        if window:
            near = self.positions[:, None] - segment.positions[None, :] < window
            allowed = near if allowed is None else near & allowed
        return None if allowed is None or allowed.all() else torch.from_numpy(~allowed).to(device)
