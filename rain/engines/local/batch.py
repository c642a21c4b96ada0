"""One pass: which tokens are computed, which keys each of them may see, and who waits for what."""

from __future__ import annotations

import math
from array import array
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rain.core.engine import Usage
from rain.engines.local.kv_cache import KvTree
from rain.engines.local.sequence import Sequence

ALIGNED = 8
"""Each row of a mask begins at a multiple of this; CUDA's kernels copy a mask, in every layer, where it does not."""


class Span(NamedTuple):
    """Consecutive tokens of one chain that are computed in a pass.

    Attributes:
        chain: slots from the first token of the text, in the base if there is one, to the last that is computed.
        tokens: ids of the last of them, which are computed; each sees the chain up to itself.
        tree: whose.
    """

    chain: array[int]
    tokens: list[int]
    tree: KvTree


class Batch:
    """One pass, as the scheduler plans it.

    Attributes:
        spans: what is computed.
        slots: of the tokens that are computed.
        waiting: slot whose logits are needed -> the sequences that wait for them.
        known: trees of the pass, and how many nodes each had before it.
        spoilt: whether numbers that are not finite were written, also over what was cached before.
        usage_shares: how many tokens are whose, and how many of those are computed for the first time.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.slots: set[int] = set()
        self.waiting: dict[int, list[Sequence]] = {}
        self.known: dict[KvTree, int] = {}
        self.spoilt = False
        self.usage_shares: list[tuple[Usage, int, int]] = []

    def add(self, sequence: Sequence, room: int) -> None:
        """Compute as many missing tokens of a sequence as there is room for, and its logits if that is all."""
        self.known.setdefault(sequence.tree, len(sequence.tree))
        count, distinct = sequence.extend_tree(room)
        last, length = sequence.slots[-1], len(sequence.slots)
        if not count and last not in self.slots:
            count = 1  # cached, but its distribution was not kept: compute the last token once more to have its logits
        if count:
            self.compute(Span(sequence.slots, sequence.tokens[length - count : length], sequence.tree))
            self.usage_shares.append((sequence.usage, count, distinct))
        if length == len(sequence.tokens):
            self.waiting.setdefault(last, []).append(sequence)

    def compute(self, span: Span) -> None:
        """Compute a span, whose slots exist already."""
        self.spans.append(span)
        self.slots.update(span.chain[-len(span.tokens) :])

    def undo(self) -> None:
        """Forget the slots of a pass that failed; the sequences find their places again."""
        for tree, known in self.known.items():
            tree.truncate(0 if self.spoilt else known)


class Group:
    """Queries that attend in one go, and all keys that any of them sees.

    Attributes:
        rows: of the pass.
        keys: slots (keys,).
        key_spans: (3, keys), int32: the first span that a key is on, the one after the last, and its position.
        query_spans: (2, queries), int32: the span of a query, and its position.
    """

    def __init__(
        self, rows: slice, keys: torch.Tensor, key_spans: NDArray[np.int32], query_spans: NDArray[np.int32]
    ) -> None:
        self.rows, self.keys, self.key_spans, self.query_spans = rows, keys, key_spans, query_spans
        self._masks: dict[int, torch.Tensor | None] = {}

    def mask(self, window: int, repeat: int, queries: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the scores (repeat * queries, keys), 0 or minus infinity; None: all keys are seen.

        Args:
            window: a query sees keys fewer than this many positions back (sliding-window layers); 0: all keys.
            repeat: how many query heads share a key-value head; their rows come one after the other.
            queries: whose device and number format the mask gets.
        """
        if window not in self._masks:
            self._masks[window] = None if self._sees_all(window) else self._make_mask(window, repeat, queries)
        return self._masks[window]

    def _sees_all(self, window: int) -> bool:
        """Tell whether every query sees every key; on the host, since asking a GPU would wait for it."""
        (first, last, key), (span, position) = self.key_spans, self.query_spans
        if first.max() > span.min() or last.min() <= span.max() or key.max() > position.min():
            return False
        return not window or bool(position.max() - key.min() < window)

    def _make_mask(self, window: int, repeat: int, queries: torch.Tensor) -> torch.Tensor:
        """Make a mask on the device; only numbers by key and by query go there."""
        first, last, key = torch.from_numpy(self.key_spans).to(queries.device, non_blocking=True)
        span, position = torch.from_numpy(self.query_spans).to(queries.device, non_blocking=True)[:, :, None]
        hidden = (first > span).bitwise_or_(last <= span).bitwise_or_(key > position)
        if window:
            hidden.bitwise_or_(key <= position - window)
        rows, keys = repeat * len(hidden), hidden.shape[1]
        aligned = queries.new_zeros(rows, -(-keys // ALIGNED) * ALIGNED)[:, :keys]
        return aligned.masked_fill_(hidden.repeat(repeat, 1), -math.inf)


class Layout:
    """The rows of a pass, and who sees whom.

    Spans are sorted by their chains, so that those which share a beginning are neighbours: the spans that a key is on
    are numbers ``first .. last - 1``. These two integers and its position decide who sees it: a query of a span in
    that range, at its position or later. Keys 0 to 6 (a trunk of two slots, two branches) and queries 4, 5 and 6::

        0 - 1 - 2 - 4 - 5     span 0    key       0  1  2  4  5  3  6
              + 3 - 6         span 1    position  0  1  2  3  4  2  3
                                        first     0  0  0  0  0  1  1
                                        last      2  2  1  1  1  2  2

                                        4:        x  x  x  x  .  .  .
                                        5:        x  x  x  x  x  .  .
                                        6:        x  x  .  .  .  x  x

    Args:
        spans: of all trees; trees that share a base are neighbours, too.
        size: of the pool.
        waste: scores of pairs that do not see each other, at most, that a span may add to a group rather than begin
            another one, which costs another call.

    Attributes:
        spans: in the order of their rows.
        slots, positions: by row.
        key_count: keys that any row sees.
        groups: neighbouring rows each, all rows together.
    """

    def __init__(self, spans: list[Span], size: int, waste: float) -> None:
        self.spans = sorted(spans, key=lambda span: span.chain)
        lengths, fresh = np.array([(len(span.chain), len(span.tokens)) for span in self.spans]).T
        chains = np.concatenate([np.array(span.chain) for span in self.spans])
        numbers = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        first, last = np.empty((2, size), dtype=np.int64)  # by slot; those on no span have values that mean nothing
        first[chains[::-1]] = numbers[::-1]  # written back to front, so that the first span is what stays
        last[chains] = numbers + 1
        new = first[chains] == numbers
        query = positions >= np.repeat(lengths - fresh, lengths)
        self.slots, self.positions = chains[query], positions[query]
        keys, key_positions, query_numbers = chains[new], positions[new], numbers[query]
        first, last, self.key_count = first[keys], last[keys], len(keys)
        key_spans = np.stack([first, last, key_positions]).astype(np.int32)
        query_spans = np.stack([query_numbers, self.positions]).astype(np.int32)
        self.groups: list[Group] = []
        for start, end in _runs(lengths, fresh, np.bincount(numbers[new], minlength=len(lengths)), waste):
            rows = slice(*np.searchsorted(query_numbers, (start, end)).tolist())
            seen = np.flatnonzero((first < end) & (last > start))
            here = Group(rows, torch.from_numpy(keys[seen]), key_spans.take(seen, axis=1), query_spans[:, rows])
            self.groups.append(here)


def _runs(
    lengths: NDArray[np.int64], fresh: NDArray[np.int64], new: NDArray[np.int64], waste: float
) -> list[tuple[int, int]]:
    """Return the first span of each group and the one after its last.

    Args:
        lengths: by span: its keys.
        fresh: by span: its queries.
        new: by span: its keys that it does not share with the span before it.
        waste: see ``Layout``.
    """
    starts, keys, queries = [0], 0, 0
    for number, (length, count, added) in enumerate(zip(lengths.tolist(), fresh.tolist(), new.tolist(), strict=True)):
        if number and queries * added + count * (keys + added - length) > waste:
            starts.append(number)
            keys, queries, added = 0, 0, length
        keys, queries = keys + added, queries + count
    return list(zip(starts, [*starts[1:], len(lengths)], strict=True))
