"""A proof at start-up that a model computes on the tree cache what it computes by itself.

The tree cache replaces attention and nothing else. A model whose layers mix tokens in another way (state spaces,
convolutions, linear or chunked attention), or whose code does not call the attention that it is given, would answer
wrongly without any error; two short passes find it out.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from rain.core.errors import RainError
from rain.engines.local.attention import TreeQueries
from rain.engines.local.kv_cache import ROOT, KvTree
from rain.engines.local.linear import pack_linears
from rain.engines.local.model_runner import PREFIX, PackedModel

LAYERS = {"full_attention", "sliding_attention"}
COMMON, BRANCH = 8, 6
TOLERANCE = 0.3


def open_packed(model: PreTrainedModel) -> PackedModel:
    """Put a model on the tree cache, and its linear layers' weights into the order that its CPU multiplies fastest.

    Raises:
        RainError: its attention cannot be replaced, or its answers there differ from those of a plain pass.
    """
    before = model.config.get_text_config()._attn_implementation
    if str(before).startswith(PREFIX):
        return PackedModel(model)  # proven when it was first opened
    kind = type(model).__name__
    other = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - LAYERS
    if other:
        raise RainError(f"{kind} has layers of {', '.join(sorted(other))}; use --engine reference")
    size = model.get_input_embeddings().weight.shape[0]
    tokens = [(7919 * place + 13) % size for place in range(COMMON + 2 * BRANCH)]
    plain = _plain_logits(model, tokens[:COMMON] + tokens[-BRANCH:])
    packed = PackedModel(model)
    pack_linears(model)
    try:
        cached = _packed_logits(packed, tokens)
    except RainError:
        model.set_attn_implementation(before)
        raise
    except Exception as error:  # whatever the model's code makes of a pass that it was not written for
        model.set_attn_implementation(before)
        raise RainError(f"{kind} cannot run on the tree cache ({error}); use --engine reference") from error
    if float((cached - plain).std() / plain.std()) > TOLERANCE:
        model.set_attn_implementation(before)
        raise RainError(f"{kind} answers otherwise on the tree cache than by itself; use --engine reference")
    return packed


@torch.inference_mode()
def _plain_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Return the logits behind the last token: (vocabulary,), float32."""
    inputs = torch.tensor([tokens], device=model.get_input_embeddings().weight.device)
    logits: torch.Tensor = model(inputs, use_cache=False).logits[0, -1]
    return logits.float()


def _packed_logits(packed: PackedModel, tokens: list[int]) -> torch.Tensor:
    """Return the same out of a tree whose root has another branch, which stands between: (vocabulary,), float32."""
    tree = KvTree()
    common: list[int] = []
    for token in tokens[:COMMON]:
        common.append(tree.append(common[-1] if common else ROOT, token)[0])
    first = TreeQueries(tree)
    first.add(common, COMMON)
    packed.forward([first], [0])
    queries = TreeQueries(tree)
    for branch in (tokens[COMMON:-BRANCH], tokens[-BRANCH:]):
        chain = list(common)
        for token in branch:
            chain.append(tree.append(chain[-1], token)[0])
        queries.add(chain, BRANCH)
    return packed.forward([queries], [2 * BRANCH - 1])[0].float()
