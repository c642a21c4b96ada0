"""The key-value cache of one search is a tree: every token of the search is computed once and attended to in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from rain.core.types import Vector
from rain.engines.local.sampling import NextTokenDistribution

ROOT = -1
NOTHING_READ = np.zeros(0)
SPARE = 1.5
"""Slots allocated for each that is needed: the cache's memory is measured with it."""


def capacity_for(slots: int) -> int:
    """Return the capacity to allocate for so many slots, so that growing copies each slot a few times at most."""
    return max(256, int(SPARE * slots))


class LayerStore:
    """Keys and values of one layer, by slot.

    Attributes:
        keys: (key-value heads, capacity, head size).
        values: likewise.
    """

    __slots__ = ("keys", "values")

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: int) -> None:
        self.keys = keys.new_empty(keys.shape[0], capacity_for(slots), keys.shape[2])
        self.values = values.new_empty(values.shape[0], capacity_for(slots), values.shape[2])

    def grow(self, slots: int) -> None:
        """Make room for so many slots."""
        if self.keys.shape[1] < slots:
            self.keys, self.values = (_copy(old, old, slots) for old in (self.keys, self.values))

    def keep(self, slots: Sequence[int]) -> None:
        """Keep these slots, in this order, and give back the room of the others."""
        index = torch.tensor(slots, device=self.keys.device)
        for name in self.__slots__:  # one after the other, so that only one is in memory twice
            old = getattr(self, name)
            setattr(self, name, _copy(old, old.index_select(1, index), len(slots)))


def _copy(old: torch.Tensor, kept: torch.Tensor, slots: int) -> torch.Tensor:
    new = old.new_empty(old.shape[0], capacity_for(slots), old.shape[2])
    new[:, : kept.shape[1]] = kept
    return new


class KvTree:
    """A trie of tokens with the keys and values of each.

    A slot is one token in one place. Parents have smaller numbers than their children, and a commit moves the chain
    that every later request contains to the front (slots ``0 .. trunk - 1``), so that attention reads it in place as
    one block. Slots are appended and, at a commit or an eviction, renumbered; ``version`` changes when slot numbers do.

    Args:
        base: a chain of tokens in front of the root that several trees share (a cached prefix), or None.

    Attributes:
        tokens, parents, positions: by slot; positions count from the start of the base.
        layers: key-value stores by layer, filled by the model's first pass.
        readings: by slot, the engine's read-outs of the token's hidden states, filled by the pass that computes it.
        distributions: by slot, what is known of the next token's distribution.
        last_used_step: number of the last step that read the tree.
        computed_paths: a hash for each path from the root that was ever computed. They serve to tell first
            computations from repeated ones in ``Usage`` and therefore survive evictions; a collision only miscounts.
    """

    _columns = ("tokens", "parents", "positions", "readings", "_hashes")

    def __init__(self, base: KvTree | None = None) -> None:
        self.base = base
        self.base_length = len(base.tokens) if base else 0
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.positions: list[int] = []
        self.readings: list[Vector] = []
        self.layers: list[LayerStore] = []
        self.distributions: dict[int, NextTokenDistribution] = {}
        self.computed_paths: set[int] = set()
        self.trunk = self.version = self.last_used_step = 0
        self._children: dict[tuple[int, int], int] = {}
        self._hashes: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def match_prefix(self, tokens: Sequence[int]) -> list[int]:
        """Return the slots of the longest cached beginning of ``tokens`` (ids after the base)."""
        slots: list[int] = []
        slot, start, children = ROOT, 0, self._children
        if self.trunk and tokens[: self.trunk] == self.tokens[: self.trunk]:
            slots, start, slot = list(range(self.trunk)), self.trunk, self.trunk - 1
        for token in tokens[start:]:
            found = children.get((slot, token))
            if found is None:
                break
            slots.append(found)
            slot = found
        return slots

    def child(self, slot: int, token: int) -> int | None:
        """Return the slot of a token after a slot, None if it is not cached."""
        return self._children.get((slot, token))

    def append(self, parent: int, token: int) -> tuple[int, bool]:
        """Add a slot; return it and whether the token was never computed in this place before."""
        slot = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.positions.append(self.positions[parent] + 1 if parent != ROOT else self.base_length)
        self.readings.append(NOTHING_READ)
        self._children[parent, token] = slot
        path = hash((self._hashes[parent] if parent != ROOT else 0, token))
        self._hashes.append(path)
        fresh = path not in self.computed_paths
        self.computed_paths.add(path)
        return slot, fresh

    def reserve(self) -> None:
        """Make room in the stores for all slots."""
        for store in self.layers:
            store.grow(len(self.tokens))

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """Write the keys and values (heads, number of slots, head size) of some slots of a layer."""
        if layer == len(self.layers):
            self.layers.append(LayerStore(keys, values, len(self.tokens)))
        self.layers[layer].keys.index_copy_(1, slots, keys)
        self.layers[layer].values.index_copy_(1, slots, values)

    def truncate(self, length: int) -> None:
        """Forget the slots from ``length`` on (a step that failed)."""
        for slot in range(length, len(self.tokens)):
            del self._children[self.parents[slot], self.tokens[slot]]
            self.computed_paths.discard(self._hashes[slot])
        for name in self._columns:
            del getattr(self, name)[length:]
        self.version += 1

    def prune_to(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` the trunk, as far as they are cached, and drop what does not continue them."""
        chain = self.match_prefix(tokens)
        new_order = list(chain)
        if len(chain) == len(tokens):
            below = set(chain[-1:])
            for slot in range(len(self.tokens)):  # parents come first, so one passage finds all descendants
                if self.parents[slot] in below:
                    below.add(slot)
                    new_order.append(slot)
        if new_order != list(range(len(self.tokens))) or self.trunk != len(chain):
            self._renumber(new_order, len(chain))

    def evict_except(self, chains: Iterable[Sequence[int]]) -> None:
        """Drop every slot that is on none of the chains."""
        kept = set().union(*map(set, chains))
        trunk = self.trunk if kept.issuperset(range(self.trunk)) else 0
        self._renumber(sorted(kept), trunk)

    def clear(self) -> None:
        """Forget all slots and give back their room."""
        for name in self._columns:
            getattr(self, name).clear()
        self.layers, self.distributions, self._children, self.trunk = [], {}, {}, 0
        self.version += 1

    def _renumber(self, new_order: list[int], trunk: int) -> None:
        """Keep these slots only, numbered in this order; parents come before their children."""
        if not new_order:
            self.clear()
            return
        place = {slot: index for index, slot in enumerate(new_order)}
        for name in self._columns:
            column = getattr(self, name)
            setattr(self, name, [column[slot] for slot in new_order])
        self.parents = [place.get(parent, ROOT) for parent in self.parents]
        self.distributions = {place[slot]: found for slot, found in self.distributions.items() if slot in place}
        self._children = {key: slot for slot, key in enumerate(zip(self.parents, self.tokens, strict=True))}
        self.trunk = trunk
        self.version += 1
        try:
            for store in self.layers:
                store.keep(new_order)
        except torch.OutOfMemoryError:  # some layers are renumbered and some are not; all can be computed again
            self.clear()
