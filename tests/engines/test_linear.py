"""Linear layers with weights in the CPU's own order compute what PyTorch's compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rain.engines.local.linear import PackedGroup, PackedLinear, can_pack, pack_linears, unpack_linears


class Unusual(nn.Linear):
    """A layer that computes something else than its class name says."""


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 3, 17, 300])
@torch.inference_mode()
def test_a_packed_layer_equals_the_plain_one_at_any_number_of_tokens(tokens: int, bias: bool) -> None:
    torch.manual_seed(tokens)
    plain = nn.Linear(96, 40, bias=bias)
    inputs = torch.randn(1, tokens, 96)
    packed = PackedLinear(PackedGroup([plain]), 0)(inputs)
    assert packed.shape == (1, tokens, 40)
    torch.testing.assert_close(packed, plain(inputs), atol=1e-5, rtol=1e-5)


def test_every_plain_layer_is_replaced_and_nothing_else() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), Unusual(4, 4), nn.Embedding(5, 4))
    model = nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(4, 4).double())
    assert pack_linears(model) == 2
    kinds = [type(module).__name__ for module in model.modules() if not isinstance(module, nn.Sequential)]
    assert kinds == ["PackedLinear", "PackedLinear", "Unusual", "Embedding", "Linear"]


@torch.inference_mode()
def test_layers_of_one_input_are_multiplied_together_and_each_gives_its_own_output() -> None:
    torch.manual_seed(0)
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    plain = nn.ModuleDict({name: nn.Linear(8, size) for name, size in zip(names, (8, 4, 6, 8), strict=True)})
    packed = copy.deepcopy(plain)
    assert pack_linears(packed) == 4
    assert packed["q_proj"].group is packed["k_proj"].group is packed["v_proj"].group is not packed["o_proj"].group
    first, second = torch.randn(1, 5, 8), torch.randn(1, 2, 8)
    for inputs, name in [(first, "q_proj"), (first, "k_proj"), (second, "q_proj"), (second, "q_proj")] + [
        (inputs, name) for inputs in (first, second) for name in names
    ]:
        torch.testing.assert_close(packed[name](inputs), plain[name](inputs), atol=1e-5, rtol=1e-5)
    assert packed["q_proj"].group.inputs is None  # nothing is held once all have their outputs


@pytest.mark.parametrize("bias", [False, True])
def test_unpacked_layers_have_exactly_the_weights_that_they_had(bias: bool) -> None:
    names = {"q_proj": 8, "k_proj": 4, "v_proj": 6, "o_proj": 8}
    plain = nn.ModuleDict({name: nn.Linear(8, size, bias=bias) for name, size in names.items()})
    model = copy.deepcopy(plain)
    pack_linears(model)
    unpack_linears(model)
    assert {type(layer) for layer in model.values()} == {nn.Linear}
    before, after = plain.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_layers_with_and_without_bias_are_not_fused() -> None:
    model = nn.ModuleDict({"gate_proj": nn.Linear(4, 4), "up_proj": nn.Linear(4, 4, bias=False)})
    assert pack_linears(model) == 2
    assert model["gate_proj"].group is not model["up_proj"].group


def test_a_tied_embedding_stays_as_it_is() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
    model["head"].weight = model["embedding"].weight
    before = model["embedding"].weight.clone()
    pack_linears(model)
    assert torch.equal(model["embedding"].weight, before)
    inputs = torch.randn(2, 4)
    with torch.inference_mode():
        torch.testing.assert_close(model["head"](inputs), inputs @ before.T)


def test_layers_that_accelerate_moves_about_or_for_which_pytorch_has_no_onednn_are_left_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooked = nn.Linear(4, 4)
    assert can_pack(hooked)
    hooked._hf_hook = object()
    assert not can_pack(hooked)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not any(can_pack(nn.Linear(4, 4).to(dtype)) for dtype in (torch.float32, torch.bfloat16))
