"""One forward pass over tokens of many trees: packed queries, tree attention in place, no padding, no copies."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel

from rain.core.engine import ReadOut
from rain.core.errors import RainError
from rain.engines.local.attention import TreeAttentionInput, TreeBatch
from rain.models.info import check_read_outs, decoder_layers

UNSUPPORTED = ("s_aux", "position_bias", "alibi")
PREFIX = "rain_packed_"
_names = count()


def tree_attention(
    part: TreeAttentionInput, layer: int, queries: torch.Tensor, scaling: float, window: int, softcap: float | None
) -> torch.Tensor:
    """Attend from the queries of one tree to their chains, block by block under one softmax.

    ::

        scores    [ base | leading block | branches ]    keys in place, in place, gathered; masks where needed
        weights   softmax over all three
        output    weights of each block @ its values, summed

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
    groups = part.tree.layers[layer].keys.shape[0]  # key-value heads: query heads h of one group are neighbours
    grouped = (queries * scaling).reshape(groups, heads // groups * count, size)
    scores, values = [], []
    for block, mask in zip(part.blocks, part.masks(window, queries.device), strict=True):
        store = block.tree.layers[layer]
        if isinstance(block.slots, slice):
            keys, held = store.keys[:, block.slots], store.values[:, block.slots]  # (groups, keys, size): views
        else:
            keys, held = store.keys.index_select(1, block.slots), store.values.index_select(1, block.slots)
        score = torch.bmm(grouped, keys.transpose(1, 2))  # (groups, heads / groups * queries, keys)
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        if mask is not None:  # (queries, keys), the same for each head: applied through a view of the scores
            score.view(groups, heads // groups, count, -1).masked_fill_(mask, float("-inf"))
        scores.append(score)
        values.append(held)
    weights = torch.softmax(torch.cat(scores, dim=2), dim=2, dtype=torch.float32).to(queries.dtype)
    parts = torch.split(weights, [held.shape[1] for held in values], dim=2)  # each like its score
    out = torch.bmm(parts[0], values[0])  # (groups, heads / groups * queries, value size)
    for weight, held in zip(parts[1:], values[1:], strict=True):
        out = torch.baddbmm(out, weight, held)
    return out.view(heads, count, -1)


def _weak(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a method and does not keep its object alive, as the registry of attentions would."""
    found = weakref.WeakMethod(method)

    def call(*args: Any, **options: Any) -> Any:
        known = found()
        assert known is not None, "the engine of this model is gone"
        return known(*args, **options)

    return call


class ModelRunner:
    """Runs a transformers model on packed tree queries.

    Args:
        model: any causal model that takes its attention from transformers' attention interface and ``position_ids``.

    Attributes:
        original: the attention that the model came with; None if another runner had replaced it before.

    Raises:
        RainError: the model's attention cannot be replaced.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.original: str | None = None
        self.device = model.get_input_embeddings().weight.device
        # The pass in progress. transformers calls the attention with tensors alone, so the trees come this way.
        self._parts: list[TreeAttentionInput] = []
        self._read: dict[int, torch.Tensor] = {}
        self._hooks: list[Any] = []
        self.read_outs: list[ReadOut] = []
        self.name = name = f"{PREFIX}{next(_names)}"
        forward = inspect.signature(model.forward).parameters
        try:
            if "position_ids" not in forward or "logits_to_keep" not in forward:
                raise ValueError("its forward takes no position_ids or logits_to_keep")
            AttentionInterface.register(name, _weak(self._attend))
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
        """Replace the model's attention; query, key, value: (1, heads, tokens, head size)."""
        assert self._parts, "the model was called past the runner"
        if any(kwargs.get(name) is not None for name in UNSUPPORTED):
            raise RainError(f"{type(self.model).__name__} needs attention sinks or biases; use --engine reference")
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        for part in self._parts:  # all before any attends: a prefix that is being cached may be another one's base
            part.tree.store(layer, key[0, :, part.rows], value[0, :, part.rows], part.slots.to(key.device))
        outputs = [
            tree_attention(part, layer, query[0, :, part.rows], scale, sliding_window or 0, softcap)
            for part in self._parts
        ]
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return out.transpose(0, 1).unsqueeze(0), None

    def set_read_outs(self, read_outs: Sequence[ReadOut]) -> None:
        """Multiply hidden states with vectors in every pass; see ``Engine.set_read_outs``."""
        check_read_outs(self.model, read_outs)
        self.release()
        layers, by_layer = decoder_layers(self.model), dict[int, list[int]]()
        for index, (layer, _) in enumerate(read_outs):
            by_layer.setdefault(layer, []).append(index)
        self.read_outs = list(read_outs)
        for layer, indices in by_layer.items():
            matrix = torch.tensor(np.stack([read_outs[i].weights for i in indices]), dtype=torch.float32)
            self._hooks.append(layers[layer - 1].register_forward_hook(self._reader(indices, matrix)))

    def _reader(self, indices: Sequence[int], matrix: torch.Tensor) -> Callable[..., None]:
        """Return a hook that keeps (tokens,) products for each read-out of a layer."""

        def read(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output  # (1, tokens, hidden size)
            products = hidden[0].float() @ matrix.to(hidden.device).T
            self._read.update(zip(indices, products.T, strict=True))

        return read

    def release(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.read_outs = [], []

    @torch.inference_mode()
    def forward(self, batch: Sequence[TreeBatch], rows: Sequence[int]) -> torch.Tensor:
        """Compute keys and values of all query slots, and the logits of some.

        Args:
            batch: one entry a tree; rows of the pass count through the entries in order.
            rows: which rows' logits are needed, at least one.

        Returns:
            logits: (len(rows), vocabulary), on the device of the model's head.
        """
        self._parts, start = [], 0
        tokens: list[int] = []
        for queries in batch:
            queries.tree.reserve()
            self._parts.append(TreeAttentionInput(queries, start, self.device))
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
        if self.read_outs:
            readings = torch.stack([self._read.pop(i).cpu() for i in range(len(self.read_outs))], dim=1).numpy()
            slots = ((queries.tree, slot) for queries in batch for slot in queries.rows)
            for (tree, slot), reading in zip(slots, readings, strict=True):
                tree.readings[slot] = reading
        logits: torch.Tensor = output.logits[0]
        return logits
