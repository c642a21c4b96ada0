"""Keys and values of all trees in one pool; a tree is a trie of tokens, each with a slot of the pool."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakSet

import numpy as np
import torch

from rain.core.errors import is_out_of_memory
from rain.core.types import Vector
from rain.engines.local.sampling import NextTokenDistribution

ROOT = -1
SLOTS = "q"
"""Type code of arrays of slots: 64-bit integers, which NumPy takes as they are."""
NOTHING_READ = np.zeros(0)
GROWTH, LEAST_SLOTS = 1.5, 256
"""A pool that is full grows by this factor, so that growing copies each slot a few times at most."""


class KvPool:
    """Room for the keys and values of tokens, shared by all trees of a model.

    Trees take slots and give them back one by one: nothing is copied when a commit or an eviction drops tokens.

    Args:
        limit: slots that are expected to be enough; beyond it, the pool grows by no more than what is needed.

    Attributes:
        layers: by layer (slots, key-value heads, key size + value size), made by the model's first pass.
        size: slots that were ever taken; a layer has room for all of them after ``reserve``.
        trees: all that have slots here.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.layers: list[torch.Tensor] = []
        self.size = 0
        self.trees: WeakSet[KvTree] = WeakSet()
        self._free: list[int] = []

    @property
    def used(self) -> int:
        """Number of slots that are taken."""
        return self.size - len(self._free)

    def take(self) -> int:
        """Return a slot."""
        if self._free:
            return self._free.pop()
        self.size += 1
        return self.size - 1

    def give(self, slots: Iterable[int]) -> None:
        """Take slots back."""
        self._free.extend(slots)
        if not self.used:
            self.layers, self._free, self.size = [], [], 0

    def reserve(self) -> None:
        """Make room for all slots, one layer after the other, so that only one is in memory twice."""
        for layer, old in enumerate(self.layers):
            if len(old) < self.size:
                self.layers[layer] = old.new_empty(self._capacity(len(old)), *old.shape[1:])
                self.layers[layer][: len(old)] = old

    def _capacity(self, before: int = 0) -> int:
        return max(self.size, min(self.limit, int(GROWTH * before)), LEAST_SLOTS)

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """Write keys and values (key-value heads, tokens, size) of some tokens into their slots (tokens,)."""
        rows = torch.cat((keys, values), dim=2).transpose(0, 1)
        if layer == len(self.layers):
            self.layers.append(rows.new_empty(self._capacity(), *rows.shape[1:]))
        self.layers[layer].index_copy_(0, slots, rows)

    @torch.inference_mode()
    def shrink(self) -> None:
        """Give back the memory of free slots: tokens move out of the last slots, and these go.

        Numbers change only after every layer has been copied, so that running out of memory meanwhile does no harm.
        """
        trees = list(self.trees)  # first: no tree may end meanwhile
        kept = self.used
        low = [slot for slot in self._free if slot < kept]
        high = [slot for tree in trees for slot in tree.nodes if slot >= kept]
        try:
            for layer in self.layers:
                sources, targets = (torch.tensor(slots, device=layer.device, dtype=torch.long) for slots in (high, low))
                layer.index_copy_(0, targets, layer.index_select(0, sources))
            moved = dict(zip(high, low, strict=True))
            for tree in trees:
                tree.move(moved)
            self.size, self._free = kept, []
            for number, layer in enumerate(self.layers):
                self.layers[number] = layer[:kept].clone()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise


@dataclass(slots=True)
class CachedToken:
    """A token in its place.

    Attributes:
        parent: slot of the token before, ROOT if there is none.
        token: its id.
        path: a hash of the tokens from the root to this one.
        reading: the engine's read-outs of its hidden states, filled by the pass that computes it.
        distribution: what is known of the next token.
    """

    parent: int
    token: int
    path: int
    reading: Vector
    distribution: NextTokenDistribution | None = None


class KvTree:
    """A trie of tokens, each with its keys and values in a slot of the pool.

    Args:
        pool: where the slots are.
        base: a chain of tokens in front of all others that several trees share (a cached prefix), or None.

    Attributes:
        nodes: by slot, parents before their children; without the base's.
        version: changes when slots are dropped or moved.
        last_used_step: number of the last step that read the tree.
        computed_paths: hashes of the paths from the root that were ever computed. They serve to tell first
            computations from repeated ones in ``Usage`` and therefore survive evictions; a collision only miscounts.
    """

    def __init__(self, pool: KvPool, base: KvTree | None = None) -> None:
        self.pool, self.base = pool, base
        pool.trees.add(self)
        self.nodes: dict[int, CachedToken] = {}
        self.computed_paths: set[int] = set()
        self.version = self.last_used_step = 0
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def __del__(self) -> None:
        self.pool.give(self.nodes)  # not when its session is closed: a request that continues still reads them

    @property
    def base_length(self) -> int:
        """Number of the base's tokens."""
        return len(self.base) if self.base else 0

    def match_prefix(self, tokens: Sequence[int]) -> array[int]:
        """Return the slots of the longest cached beginning of ``tokens``, which start with the base's."""
        chain = array(SLOTS, self.base.nodes if self.base else ())
        self.follow(chain, tokens)
        return chain

    def follow(self, chain: array[int], tokens: Sequence[int]) -> None:
        """Append to a chain, which is that of the first tokens, the slots of the others as far as they are cached."""
        slot = chain[-1] if chain else ROOT
        for token in tokens[len(chain) :]:
            found = self._children.get((slot, token))
            if found is None:
                return
            chain.append(found)
            slot = found

    def extend(self, chain: array[int], tokens: Iterable[int]) -> int:
        """Append tokens after a chain, whose slots become more; return how many were never computed there before."""
        fresh = 0
        for token in tokens:
            slot, parent = self.pool.take(), chain[-1] if chain else ROOT
            path = hash((self.nodes[parent].path if parent in self.nodes else 0, token))
            self.nodes[slot] = CachedToken(parent, token, path, NOTHING_READ)
            self._children[parent, token] = slot
            fresh += path not in self.computed_paths
            self.computed_paths.add(path)
            chain.append(slot)
        return fresh

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` nodes that are left (a step that failed)."""
        added = list(self.nodes)[length:]
        self.computed_paths.difference_update(self.nodes[slot].path for slot in added)
        self._drop(added)

    def prune_to(self, tokens: Sequence[int]) -> None:
        """Keep ``tokens``, as far as they are cached, and what continues them, and drop everything else."""
        chain = self.match_prefix(tokens)
        below = set(chain[-1:]) if len(chain) == len(tokens) else set()
        for slot, node in self.nodes.items():  # parents come first, so one passage finds all descendants
            if node.parent in below:
                below.add(slot)
        self.evict_except([chain, below])

    def evict_except(self, chains: Iterable[Iterable[int]]) -> None:
        """Drop every slot that is on none of the chains."""
        kept = set().union(*chains)
        self._drop([slot for slot in self.nodes if slot not in kept])

    def _drop(self, slots: Sequence[int]) -> None:
        for slot in slots:
            node = self.nodes.pop(slot)
            del self._children[node.parent, node.token]
        self.version += bool(slots)
        self.pool.give(slots)

    def move(self, moved: Mapping[int, int]) -> None:
        """Follow keys and values that have moved (old slot -> new slot), those of the base, too."""
        self.nodes = {moved.get(slot, slot): node for slot, node in self.nodes.items()}
        for node in self.nodes.values():
            node.parent = moved.get(node.parent, node.parent)
        self._children = {(node.parent, node.token): slot for slot, node in self.nodes.items()}
        self.version += 1
