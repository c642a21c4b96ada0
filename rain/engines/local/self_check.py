"""A check at start-up that a model computes on the tree cache what it computes by itself.

The tree cache replaces attention and nothing else. A model whose layers mix tokens in another way (state spaces,
convolutions, linear or chunked attention), or whose code does not call the attention that it is given, would answer
wrongly without any error; two short passes find it out.
"""

from __future__ import annotations

import math
import sys
import weakref
from array import array
from typing import Any

import torch
from transformers import PreTrainedModel

from rain.core.errors import RainError, check_device, is_broken_device
from rain.engines.local.batch import Batch, Span
from rain.engines.local.kv_cache import SLOTS, KvTree
from rain.engines.local.linear import pack_linears, unpack_linears
from rain.engines.local.model_runner import ModelRunner, model_lock
from rain.engines.local.precision import restore_head, widen_head
from rain.engines.local.sampling import read_rows

LAYERS = {"full_attention", "sliding_attention"}
COMMON, BRANCH = 8, 6
WINDOW_MASK = "create_sliding_window_causal_mask"
LENGTH_DEPENDENT = {"dynamic", "longrope"}
TOLERANCE = 0.3
"""Standard deviation of the differences of logits, in standard deviations of the logits; rounding stays far below."""

_users: weakref.WeakKeyDictionary[PreTrainedModel, weakref.WeakSet[ModelRunner]] = weakref.WeakKeyDictionary()
"""The runners of each model."""


def verified_model(model: PreTrainedModel) -> ModelRunner:
    """Put a model on the tree cache, and its linear layers' weights into the order that its CPU multiplies fastest.

    Raises:
        WorkerFault: its device has failed or has too little memory.
        RainError: its attention cannot be replaced, or its answers there differ from those of a plain pass. The model
            is left as it was.
    """
    with model_lock(model):
        users = _users.setdefault(model, weakref.WeakSet())
        runner = ModelRunner(model) if users else _checked(model)  # checked when it was first opened
        users.add(runner)
    return runner


def _checked(model: PreTrainedModel) -> ModelRunner:
    config, kind = model.config.get_text_config(), type(model).__name__
    other = set(getattr(config, "layer_types", None) or ()) - LAYERS
    if other:
        raise RainError(f"{kind} has layers of {', '.join(sorted(other))}; use --engine reference")
    if lengths := _rope_kinds(config) & LENGTH_DEPENDENT:
        raise RainError(
            f"{kind} has {', '.join(sorted(lengths))} rotary positions, which change with the length of a text; use "
            "--engine reference"
        )
    gpus = set(getattr(model, "hf_device_map", {}).values()) - {"cpu", "disk"}
    if len(gpus) > 1:
        raise RainError(f"{kind} lies on {len(gpus)} GPUs, and the tree cache needs it on one; use --engine vllm")
    tokens = check_tokens(model)
    plain = plain_logits(model, tokens[:COMMON] + tokens[-BRANCH:])
    try:
        runner = ModelRunner(model)
        pack_linears(model)
        widen_head(model)
        difference = (_tree_logits(runner, tokens) - plain).std() / plain.std()
        if not float(difference) <= TOLERANCE:
            raise RainError(f"{kind} gives other answers on the tree cache than by itself; use --engine reference")
        if _has_windows(model) and not any(runner.windows):
            raise RainError(f"{kind} keeps its sliding windows in masks of its own; use --engine reference")
    except Exception as error:  # whatever the model's code makes of a pass that it was not written for
        if not is_broken_device(error):
            _restore(model)
        check_device(error)
        if isinstance(error, RainError):
            raise
        raise RainError(f"{kind} cannot run on the tree cache ({error}); use --engine reference") from error
    return runner


def check_tokens(model: PreTrainedModel) -> list[int]:
    """Return some ids of a model."""
    size = model.get_input_embeddings().weight.shape[0]
    return [(7919 * place + 13) % size for place in range(COMMON + 2 * BRANCH)]


def restore_model(runner: ModelRunner) -> None:
    """Give the model its own linear layers back, unless another runner uses it too."""
    with runner.lock:
        runner.release()
        users = _users[runner.model]
        if runner in users:
            users.remove(runner)
            if not users:
                _restore(runner.model)


def _restore(model: PreTrainedModel) -> None:
    unpack_linears(model)
    restore_head(model)
    model.tie_weights()


def _has_windows(model: PreTrainedModel) -> bool:
    """Tell whether a model has layers that see only the last positions: two short passes may not reach so far."""
    config = model.config.get_text_config()
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    code = sys.modules[type(model).__module__]  # a LLaMA whose file names a window has none
    window, longest = getattr(config, "sliding_window", None), getattr(config, "max_position_embeddings", math.inf)
    return bool(slides and window and window < longest and hasattr(code, WINDOW_MASK))


def _rope_kinds(config: Any) -> set[str]:
    """Return the kinds of rotary positions of a model; some have one for each kind of layer."""
    found, left = set(), [getattr(config, "rope_parameters", None)]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            found.add(str(part.get("rope_type") or part.get("type")))
            left += part.values()
    return found


@torch.inference_mode()
def plain_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Return the logits after the last token: (vocabulary,), float32.

    Raises:
        RainError: they are not finite.
    """
    inputs = torch.tensor([tokens], device=model.get_input_embeddings().weight.device)
    logits: torch.Tensor = model(inputs, use_cache=False).logits[0, -1]
    [row], *_ = read_rows(logits[None], [], [], 1)
    row.check()
    return logits.float()


def _tree_logits(runner: ModelRunner, tokens: list[int]) -> torch.Tensor:
    """Return the same logits, computed in a tree with a second branch: (vocabulary,), float32."""
    tree, common, batch = KvTree(runner.pool), array(SLOTS), Batch()
    tree.extend(common, tokens[:COMMON])
    batch.compute(Span(common, tokens[:COMMON], tree))
    runner.forward(batch)
    batch = Batch()
    for branch in (tokens[COMMON:-BRANCH], tokens[-BRANCH:]):
        chain = common[:]
        tree.extend(chain, branch)
        batch.compute(Span(chain, branch, tree))
    batch.waiting[chain[-1]] = []
    return runner.forward(batch).logits[0].float()
