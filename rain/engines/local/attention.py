"""A tree's part of a packed pass: which of its tokens are computed, and which keys each of them may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rain.engines.local.kv_cache import KvTree


class QuerySpan(NamedTuple):
    """Consecutive tokens of one chain that are computed in a pass.

    Attributes:
        chain: slots from the root to the last of them.
        fresh: how many at the end of the chain are computed; each sees the chain up to itself.
    """

    chain: Sequence[int]
    fresh: int

    def leading_block(self) -> int:
        """Return the largest t so that slots 0 .. t - 1 begin the chain and every query of the span sees them all.

        Slots rise along a chain, since parents come before their children. So ``chain[i] == i`` holds up to some i
        and nowhere after it, and a binary search finds that place.
        """
        low, high = 0, len(self.chain) - self.fresh + 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.chain[middle - 1] == middle - 1 else (low, middle - 1)
        return low


class TreeBatch:
    """What is computed of one tree in one pass.

    Attributes:
        tree: the slots exist already; their keys and values may not.
        known: number of slots that were in the tree before this pass.
        spans: in the order of their rows.
        rows: slot -> row of this tree's part of the pass.
    """

    def __init__(self, tree: KvTree) -> None:
        self.tree = tree
        self.known = len(tree)
        self.spans: list[QuerySpan] = []
        self.rows: dict[int, int] = {}

    def add(self, chain: Sequence[int], count: int) -> None:
        """Compute the last ``count`` slots of a chain."""
        self.spans.append(QuerySpan(chain, count))
        for slot in chain[len(chain) - count :]:
            self.rows[slot] = len(self.rows)


@dataclass(slots=True)
class KeyBlock:
    """Keys that the queries of a tree attend to.

    Attributes:
        tree: whose keys.
        slots: a block of them, read in place, or an index of them, gathered.
        positions: (keys,)
        allowed: (queries, keys), whether a query may see a key; None: all may.
    """

    tree: KvTree
    slots: slice | torch.Tensor
    positions: NDArray[np.int64]
    allowed: NDArray[np.bool_] | None


class TreeAttentionInput:
    """A tree's part of a pass: which rows its queries have, and which keys they may see.

    Three blocks of keys, attended to under one softmax: the shared base, the slots that begin every chain of the pass,
    and the branches beyond them. Queries 4, 5 and 6 of this tree (a trunk of two slots, two branches)::

        0 - 1 - 2 - 4 - 5       block [0, 1]   branches [2, 4, 5, 3, 6]
              + 3 - 6            4:  x  x        x  x  .  .  .
                                 5:  x  x        x  x  x  .  .
                                 6:  x  x        .  .  .  x  x
    """

    def __init__(self, queries: TreeBatch, start: int, device: torch.device) -> None:
        tree = queries.tree
        self.tree = tree
        self.rows = slice(start, start + len(queries.rows))
        self.slots = torch.tensor(list(queries.rows), device=device)
        self.positions = np.array([tree.positions[slot] for slot in queries.rows])
        self.blocks: list[KeyBlock] = []
        self._masks: dict[int, list[torch.Tensor | None]] = {}
        if tree.base:
            length = tree.base_length
            self.blocks.append(KeyBlock(tree.base, slice(0, length), np.arange(length), None))
        length = min(span.leading_block() for span in queries.spans)
        if length:
            self.blocks.append(KeyBlock(tree, slice(0, length), np.arange(length) + tree.base_length, None))
        self._add_branches(queries, length, device)

    def _add_branches(self, queries: TreeBatch, start: int, device: torch.device) -> None:
        """Index the slots of chains from ``start`` on; each query sees those on its own chain, up to itself."""
        columns: dict[int, int] = {}
        for span in queries.spans:
            for slot in span.chain[start:]:
                columns.setdefault(slot, len(columns))
        if not columns:
            return
        allowed = np.zeros((len(queries.rows), len(columns)), dtype=bool)
        row = 0
        for span in queries.spans:
            seen = np.array([columns[slot] for slot in span.chain[start:]], dtype=np.intp)
            for visible in range(len(seen) - span.fresh + 1, len(seen) + 1):  # 0 where the block ends at the query
                allowed[row, seen[:visible]] = True
                row += 1
        index = torch.tensor(list(columns), device=device)
        positions = np.array([self.tree.positions[slot] for slot in columns])
        self.blocks.append(KeyBlock(self.tree, index, positions, None if allowed.all() else allowed))

    def masks(self, window: int, device: torch.device) -> list[torch.Tensor | None]:
        """Return for each block which key (column) a query (row) must not see; None: it sees all of them.

        Args:
            window: a query sees keys fewer than this many positions back (sliding-window layers); 0: all keys.
            device: where the masks are needed.
        """
        if window not in self._masks:
            self._masks[window] = [self._mask(block, window, device) for block in self.blocks]
        return self._masks[window]

    def _mask(self, block: KeyBlock, window: int, device: torch.device) -> torch.Tensor | None:
        allowed = block.allowed
        if window:
            near: Any = self.positions[:, None] - block.positions[None, :] < window
            allowed = near if allowed is None else near & allowed
        return None if allowed is None or allowed.all() else torch.from_numpy(~allowed).to(device)
