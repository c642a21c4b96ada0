"""One forward pass over tokens of many trees: packed queries, tree attention in place, no padding, no copies."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel

from rain.engines.kvtree import KvTree
from rain.errors import RainError

UNSUPPORTED = ("s_aux", "position_bias", "alibi")
PREFIX = "rain_packed_"
_names = count()


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


def tree_attention(
    part: TreePart, layer: int, queries: torch.Tensor, scaling: float, window: int, softcap: float | None
) -> torch.Tensor:
    """Attend from the queries of one tree to their chains, segment by segment under one softmax.

    Args:
        part: the tree's part of the pass; its keys and values of this layer are stored already.
        layer: index of the layer.
        queries: (query heads, queries, head size).
        scaling: factor of the scores.
        window: positions that a query sees back (sliding-window layers); 0: all.
        softcap: scores are squashed to this size, where the model does so.

    Returns:
        (query heads, queries, value head size)
    """
    heads, count, size = queries.shape
    groups = part.tree.layers[layer].keys.shape[0]
    grouped = (queries * scaling).reshape(groups, heads // groups * count, size)
    scores, values = [], []
    for segment, mask in zip(part.segments, part.masks(window, queries.device), strict=True):
        store = segment.tree.layers[layer]
        if isinstance(segment.block, slice):
            keys, held = store.keys[:, segment.block], store.values[:, segment.block]
        else:
            keys, held = store.keys.index_select(1, segment.block), store.values.index_select(1, segment.block)
        score = torch.bmm(grouped, keys.transpose(1, 2))
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        if mask is not None:
            score.view(groups, heads // groups, count, -1).masked_fill_(mask, float("-inf"))
        scores.append(score)
        values.append(held)
    weights = torch.softmax(torch.cat(scores, dim=2), dim=2, dtype=torch.float32).to(queries.dtype)
    parts = torch.split(weights, [held.shape[1] for held in values], dim=2)
    out = torch.bmm(parts[0], values[0])
    for weight, held in zip(parts[1:], values[1:], strict=True):
        out = torch.baddbmm(out, weight, held)
    return out.view(heads, count, -1)


class PackedModel:
    """Runs a transformers model on packed tree queries.

    Args:
        model: any causal model that takes its attention from transformers' attention interface and ``position_ids``.

    Raises:
        RainError: the model's attention cannot be replaced.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.get_input_embeddings().weight.device
        self._parts: list[TreePart] = []
        name = f"{PREFIX}{next(_names)}"
        forward = inspect.signature(model.forward).parameters
        try:
            if "position_ids" not in forward or "logits_to_keep" not in forward:
                raise ValueError("its forward takes no position_ids or logits_to_keep")
            AttentionInterface.register(name, self._attend)
            model.set_attn_implementation(name)
            if model.config.get_text_config()._attn_implementation != name:
                raise ValueError("it does not use transformers' attention interface")
        except (ValueError, KeyError, AttributeError, ImportError) as error:
            kind = type(model).__name__
            raise RainError(f"{kind} cannot run on the tree cache ({error}); use --engine reference") from error

    def _attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Stand in for the model's attention; query, key, value: (1, heads, tokens, head size)."""
        if any(kwargs.get(name) is not None for name in UNSUPPORTED):
            raise RainError(f"{type(self.model).__name__} needs attention sinks or biases; use --engine reference")
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        for part in self._parts:
            part.tree.store(layer, key[0, :, part.rows], value[0, :, part.rows], part.slots.to(key.device))
        outputs = [
            tree_attention(part, layer, query[0, :, part.rows], scale, sliding_window or 0, softcap)
            for part in self._parts
        ]
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return out.transpose(0, 1).unsqueeze(0), None

    @torch.inference_mode()
    def forward(self, batch: Sequence[TreeQueries], rows: Sequence[int]) -> torch.Tensor:
        """Compute keys and values of all query slots, and the logits of some.

        Args:
            batch: one entry a tree; rows of the pass count through the entries in order.
            rows: which rows' logits are wanted, at least one.

        Returns:
            logits: (len(rows), vocabulary), on the device of the model's head.
        """
        self._parts, start = [], 0
        tokens: list[int] = []
        for queries in batch:
            queries.tree.reserve()
            self._parts.append(TreePart(queries, start, self.device))
            start += len(queries.rows)
            tokens += [queries.tree.tokens[slot] for slot in queries.rows]
        positions = np.concatenate([part.positions for part in self._parts])
        packed = torch.tensor(np.stack([np.array(tokens), positions])).to(self.device)
        try:
            output = self.model(
                input_ids=packed[:1],
                position_ids=packed[1:],
                use_cache=False,
                logits_to_keep=torch.tensor(list(rows)).to(self.device),
            )
        finally:
            self._parts = []
        logits: torch.Tensor = output.logits[0]
        return logits
