"""What is awaited together, and what is computed together."""

from __future__ import annotations

import asyncio

from rain.core.engine import Usage
from rain.engines.local.attention import TreeBatch
from rain.engines.local.kv_cache import KvTree
from rain.engines.local.sequence import Sequence


class Request:
    """Sequences that are awaited together.

    Attributes:
        size: tokens that they may come to in the cache, their common beginning counted once.
    """

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        shared = min(len(sequence.tokens) for sequence in sequences)
        self.size = shared + sum(len(sequence.tokens) - shared + sequence.remaining for sequence in sequences)

    def fail(self, error: Exception) -> None:
        """Hand an exception to who waits, unless nobody does."""
        if not self.future.done():
            self.future.set_exception(error)

    def settle(self) -> None:
        """Wake who waits once all sequences are done, or one of them has failed."""
        errors = [sequence.error for sequence in self.sequences if sequence.error is not None]
        if errors:
            self.fail(errors[0])
        elif not self.future.done() and all(sequence.done for sequence in self.sequences):
            self.future.set_result(None)


class Batch:
    """One pass.

    Attributes:
        queries: by tree; rows of the pass count through them in order.
        logits_rows: (tree, slot) of each row whose logits are needed -> the sequences that wait for it.
        tokens: query tokens so far.
        usage_shares: how many of them are whose, and how many of those are computed for the first time.
    """

    def __init__(self) -> None:
        self.queries: dict[KvTree, TreeBatch] = {}
        self.logits_rows: dict[tuple[KvTree, int], list[Sequence]] = {}
        self.tokens = 0
        self.usage_shares: list[tuple[Usage, int, int]] = []

    def add(self, sequence: Sequence, room: int) -> None:
        """Compute as many missing tokens of a sequence as there is room for, and its logits if that is all."""
        queries = self.queries.setdefault(sequence.tree, TreeBatch(sequence.tree))
        count, distinct = sequence.extend_tree(room)
        if not count and sequence.slots[-1] not in queries.rows:
            count = 1  # cached, but its distribution was not kept: compute the last token once more to have its logits
        if count:
            queries.add(sequence.slots, count)
            self.tokens += count
            self.usage_shares.append((sequence.usage, count, distinct))
        if len(sequence.slots) == len(sequence.tokens):
            self.logits_rows.setdefault((sequence.tree, sequence.slots[-1]), []).append(sequence)

    def rows(self) -> list[int]:
        """Return the row in the pass of each slot whose logits are needed (at least one: a model returns no fewer)."""
        starts, start = {}, 0
        for tree, queries in self.queries.items():
            starts[tree], start = start, start + len(queries.rows)
        return [starts[tree] + self.queries[tree].rows[slot] for tree, slot in self.logits_rows] or [0]

    def undo(self) -> None:
        """Forget the slots of a pass that failed; the sequences find their places again."""
        for tree, queries in self.queries.items():
            tree.truncate(queries.known)
