"""One forward pass over tokens of many trees: packed queries, tree attention in place, no padding, no copies."""

from __future__ import annotations

import inspect
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from rain.core.engine import ReadOut
from rain.core.errors import RainError
from rain.engines.local.batch import Batch, Group, Layout
from rain.engines.local.kv_cache import KvPool
from rain.engines.local.precision import batched_product
from rain.models.info import check_read_outs, decoder_layers

UNSUPPORTED = ("s_aux", "position_bias", "alibi")
PREFIX = "rain_packed_"
_names = count()
_locks: weakref.WeakKeyDictionary[PreTrainedModel, threading.RLock] = weakref.WeakKeyDictionary()
CPU_WASTE = 4000
"""Scores that take a CPU as long as one more call of the attention, about; on a GPU, one call takes all trees."""
EACH_ALONE = -1
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Of the attention. PyTorch prefers cuDNN's on H100 and later, which builds a graph for each new shape (some 30 ms) and
keeps it for good; here hardly any pass has the shape of another."""


def tree_attention(
    group: Group, kept: torch.Tensor, queries: torch.Tensor, scaling: float, window: int, softcap: float | None
) -> torch.Tensor:
    """Attend from the queries of a group to the keys that they may see.

    Args:
        group: of the pass; its keys and values of this layer are stored already.
        kept: (slots, key-value heads, key size + value size), the layer's part of the pool.
        queries: (query heads, queries, key size).
        scaling: factor of the scores.
        window: positions that a query sees back (sliding-window layers); 0: all.
        softcap: scores are squashed to this size, where the model does so.

    Returns:
        (query heads, queries, value size)
    """
    heads, count, size = queries.shape
    repeat = heads // kept.shape[1]  # query heads that share a key-value head are neighbours
    grouped = queries.reshape(-1, repeat * count, size)
    group.keys = group.keys.to(kept.device, non_blocking=True)
    rows = kept.index_select(0, group.keys).transpose(0, 1)  # (key-value heads, keys, key size + value size)
    keys, values = rows[..., :size], rows[..., size:]
    mask = group.mask(window, repeat, queries)
    if softcap is None:
        out = scaled_dot_product_attention(grouped[None], keys[None], values[None], attn_mask=mask, scale=scaling)
    else:
        scores = torch.tanh(batched_product(grouped, keys.transpose(1, 2)) * (scaling / softcap)) * softcap
        weights = torch.softmax(scores if mask is None else scores + mask, dim=2, dtype=torch.float32)
        out = torch.bmm(weights.to(values.dtype), values)
    return out.reshape(heads, count, -1)


class PassOutput(NamedTuple):
    """What a pass leaves on the device.

    Attributes:
        logits: (slots in ``batch.waiting``, vocabulary), in their order; a row that means nothing if there are none.
        finite: (), whether all keys and values of its tokens are.
        readings: (tokens, read-outs), float32.
        layout: which tokens were computed, in what order.
    """

    logits: torch.Tensor
    finite: torch.Tensor
    readings: torch.Tensor
    layout: Layout


def model_lock(model: PreTrainedModel) -> threading.RLock:
    """Return the lock of a model, whose attention is another one during a pass."""
    return _locks.setdefault(model, threading.RLock())


def _own_attention(model: PreTrainedModel, name: str) -> list[tuple[PreTrainedConfig, str]]:
    """Return the configurations of a model that name the attention of its layers, each with what it names.

    Raises:
        ValueError: another attention (``name``) cannot be set there.
    """
    every = [model.config, model.config.get_text_config(), *(getattr(part, "config", None) for part in model.modules())]
    before = {id(one): (one, one._attn_implementation) for one in every if isinstance(one, PreTrainedConfig)}
    try:
        model.set_attn_implementation(name)
        if model.config.get_text_config()._attn_implementation != name:
            raise ValueError("it does not use transformers' attention interface")
        return [(config, own) for config, own in before.values() if config._attn_implementation == name]
    finally:
        model.set_attn_implementation(before[id(model.config)][1])
        for config, own in before.values():
            config._attn_implementation_internal = own


class ModelRunner:
    """Runs a transformers model on packed tree queries.

    Args:
        model: any causal model that takes its attention from transformers' attention interface and ``position_ids``.

    Attributes:
        lock: held while a pass runs; runners of the same model share it.
        pool: keys and values of all trees.
        windows: sliding windows that layers have asked for (positions; 0: none).
        waste: see ``Layout``.

    Raises:
        RainError: the model's attention cannot be replaced.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.lock = model_lock(model)
        self.device = model.get_input_embeddings().weight.device
        self.pool, self.windows = KvPool(), set[int]()
        self.waste = CPU_WASTE if self.device.type == "cpu" else math.inf
        # The pass in progress. transformers calls the attention with tensors alone, so the trees come this way.
        self._groups: list[Group] = []
        self._slots = torch.zeros(0)  # of the tokens that are computed
        self._read: dict[int, torch.Tensor] = {}
        self._hooks: list[Any] = []
        self.read_outs: list[ReadOut] = []
        self.name = name = f"{PREFIX}{next(_names)}"
        forward = inspect.signature(model.forward).parameters
        try:
            if "position_ids" not in forward or "logits_to_keep" not in forward:
                raise ValueError("its forward takes no position_ids or logits_to_keep")
            # by a weak reference: the registry of attentions keeps for good what it is given
            AttentionInterface.register(name, partial(ModelRunner._attend, weakref.proxy(self)))
            with self.lock:
                self._own = _own_attention(model, name)  # between passes, the model is called with its own attention
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
        if any(kwargs.get(name) is not None for name in UNSUPPORTED):
            raise RainError(f"{type(self.model).__name__} needs attention sinks or biases; use --engine reference")
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        window = sliding_window or 0
        self.windows.add(window)
        self._slots = self._slots.to(key.device, non_blocking=True)
        self.pool.store(layer, key[0], value[0], self._slots)
        outputs = [
            tree_attention(group, self.pool.layers[layer], query[0, :, group.rows], scale, window, softcap)
            for group in self._groups
        ]
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return out.transpose(0, 1).contiguous().unsqueeze(0), None

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
        """Return a hook that gives the runner (tokens,) products for each read-out of a layer, if it still lives."""
        known = weakref.ref(self)

        def read(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            nonlocal matrix
            runner = known()
            if runner is None or not runner._groups:  # a call of the user's, or a pass of another runner
                return
            hidden = output[0] if isinstance(output, tuple) else output  # (1, tokens, hidden size)
            matrix = matrix.to(hidden.device, non_blocking=True)
            products = hidden[0].float() @ matrix.T
            runner._read.update(zip(indices, products.T, strict=True))

        return read

    def release(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.read_outs = [], []

    @torch.inference_mode()
    def forward(self, batch: Batch, *, each_alone: bool = False) -> PassOutput:
        """Compute keys and values of all planned tokens, and the logits that somebody waits for.

        It does not wait for the device: uploads are staged (``non_blocking``), and nothing is downloaded. Not even
        zero times a NaN is zero: where keys or values are not finite, one chain has spoilt its whole group, and
        ``each_alone`` has to compute the batch again.
        """
        self.pool.reserve()
        layout = Layout(batch.spans, self.pool.size, EACH_ALONE if each_alone else self.waste)
        with self.lock:
            logits = self._compute(batch, layout)
        finite = self.pool.layers[-1][self._slots].isfinite().all()
        found = [self._read.pop(i) for i in range(len(self.read_outs))]
        readings = torch.stack(found, dim=1) if found else logits.new_zeros(len(layout.slots), 0)
        return PassOutput(logits, finite, readings, layout)

    def _compute(self, batch: Batch, layout: Layout) -> torch.Tensor:
        rows = {slot: row for row, slot in enumerate(layout.slots.tolist())}
        tokens = [token for span in layout.spans for token in span.tokens]
        packed = torch.from_numpy(np.stack([tokens, layout.positions])).to(self.device, non_blocking=True)
        logits_to_keep = torch.tensor([rows[slot] for slot in batch.waiting] or [0]).to(self.device, non_blocking=True)
        self._groups, self._slots = layout.groups, torch.from_numpy(layout.slots)
        try:
            for config, _ in self._own:
                config._attn_implementation_internal = self.name
            with sdpa_kernel(KERNELS):
                output = self.model(
                    input_ids=packed[:1],
                    position_ids=packed[1:],
                    use_cache=False,
                    logits_to_keep=logits_to_keep,
                )
        finally:
            self._groups = []
            for config, own in self._own:
                config._attn_implementation_internal = own
        logits: torch.Tensor = output.logits[0]
        return logits
