"""Loaded models: ``Rain(model, tokenizer)``, ``generate``, and ``model.generate(custom_generate=...)``."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import plain_logprobs, tiny_model
from support.tiny_task import LETTERS, WORDS, saved
from support.watched import FAST
from transformers import GenerationConfig

from rain import Rain, RainError, generate
from rain.custom_generate import FOLDER, aligned
from rain.engines.toy import EOS, ToyEncoder, ToyTokenizer

PROMPTS = ("Is the sea salty?", "Why?")


@pytest.fixture
def small(tmp_path):
    """Settings for a model with a short context."""
    return {**FAST, "max_new_tokens": 8, "template": saved(tmp_path, LETTERS)}


class Tokenizer(ToyTokenizer):
    """Bytes, for transformers, which asks more of a tokenizer than RAIN."""

    pad_token_id = None
    init_kwargs = {}


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr("rain.library.open_encoder", lambda config: ToyEncoder())
    model = tiny_model(deviation=0.4)
    model.generation_config.pad_token_id = EOS
    return model


def ids(*texts):
    """Return texts padded on the left, and their mask."""
    rows = [list(text.encode()) for text in texts]
    width = max(map(len, rows))
    padded = torch.tensor([[EOS] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": padded, "attention_mask": mask}


def state(model):
    return model.config.get_text_config()._attn_implementation, [type(part) for part in model.modules()]


def test_a_loaded_model_answers_like_the_engine_of_its_name(model, small):
    before = state(model)
    with Rain(model, Tokenizer(), **small) as rain:
        answers = rain.generate(list(PROMPTS))
        plain = rain.baseline(PROMPTS[1])
        assert state(model) != before
    assert state(model) == before
    assert len({answer.text for answer in answers}) == 2
    assert all(answer.commits for answer in answers)
    tokens = list(rain.prepare(PROMPTS[1]).tokens)
    for token in plain.tokens:
        assert plain_logprobs(model, tokens)[-1].argmax() == token
        tokens.append(token)


def test_a_loaded_model_needs_its_tokenizer(model):
    with pytest.raises(RainError, match="tokenizer"):
        Rain(model)


@pytest.mark.parametrize("name", ["dtype", "quantization", "engine", "device_map"])
def test_what_says_how_a_model_is_loaded_is_refused_with_a_loaded_one(name, model, small):
    value = {"dtype": "float32", "quantization": "none", "engine": "hf", "device_map": "auto"}[name]
    with pytest.raises(RainError, match=f"{name} cannot be chosen"):
        Rain(model, Tokenizer(), **small, **{name: value})


@pytest.mark.parametrize("prompts", [PROMPTS[0], list(PROMPTS)], ids=["str", "list"])
def test_generate_leaves_a_model_as_it_was(prompts, model, small):
    text = torch.tensor([list(b"Human: Is it so?")])
    before, logits = state(model), model(text).logits
    answers = generate(model, Tokenizer(), prompts, **small)
    assert state(model) == before
    assert torch.equal(model(text).logits, logits)
    assert isinstance(answers, list) == isinstance(prompts, list)
    again = generate(model, Tokenizer(), list(PROMPTS), **small)
    assert str(again[0]) == str(answers[0] if isinstance(answers, list) else answers)


def test_a_model_is_left_as_it_was_if_an_object_cannot_be_made(model, small, tmp_path):
    before = state(model)
    with pytest.raises(RainError, match="' yes'"):
        Rain(model, Tokenizer(), **{**small, "template": saved(tmp_path, WORDS)})
    assert state(model) == before


def expected(model, inputs, limit, small):
    rows = [tuple(row[mask.bool()].tolist()) for row, mask in zip(*inputs.values(), strict=True)]
    with Rain(model, Tokenizer(), **small) as rain:
        return [list(answer.tokens) for answer in rain.generate(rows, max_new_tokens=limit)]


@pytest.mark.parametrize("as_folder", [False, True], ids=["function", "folder"])
def test_generate_of_transformers_gives_prompts_and_aligned_answers(as_folder, model, small):
    inputs = ids(*PROMPTS)
    if as_folder:
        how = {"custom_generate": FOLDER, "trust_remote_code": True, "tokenizer": Tokenizer(), **small}
    else:
        how = {"custom_generate": aligned(Tokenizer(), **small)}
    how["max_new_tokens"] = 6
    found = model.generate(**inputs, **how)
    wanted = expected(model, inputs, 6, small)
    width = max(map(len, wanted))
    assert torch.equal(found[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    padded = [row + [EOS] * (width - len(row)) for row in wanted]
    assert found[:, inputs["input_ids"].shape[1] :].tolist() == padded


def test_the_folder_keeps_the_limit_of_a_generation_config(model, small):
    del small["max_new_tokens"]
    limited = GenerationConfig(max_new_tokens=5, pad_token_id=EOS)
    options = {"custom_generate": str(FOLDER), "trust_remote_code": True, "tokenizer": Tokenizer(), **small}
    found = model.generate(**ids("Why?"), generation_config=limited, **options)
    assert found.shape[1] <= 4 + 5


def test_the_folder_needs_a_tokenizer(model):
    with pytest.raises(ValueError, match="tokenizer"):
        model.generate(**ids("Why?"), custom_generate=FOLDER, trust_remote_code=True)


def test_nothing_follows_the_end_of_sequence(model, small):
    with torch.no_grad():
        model.lm_head.weight[EOS] = model.lm_head.weight.abs().max(dim=0).values * 1.2
    found = model.generate(**ids(*PROMPTS), custom_generate=aligned(Tokenizer(), **small), max_new_tokens=24)
    answers = found[:, ids(*PROMPTS)["input_ids"].shape[1] :].tolist()
    assert any(EOS in answer for answer in answers)
    for answer in answers:
        end = answer.index(EOS) if EOS in answer else len(answer)
        assert set(answer[end:]) <= {EOS}


def test_the_embedded_model_answers_streams_and_continues_a_conversation(capsys):
    talk = [{"role": "user", "content": "Say <|im_end|>"}, {"role": "assistant", "content": "The sea is"}]
    size = {"max_simulations": 2, "extra_simulations": 1, "candidates": 2, "max_draws": 1, "max_new_tokens": 6}
    with Rain("smollm2", dtype="float32", **size) as rain:
        assert "readout:harmless" in capsys.readouterr().err, "the preset is announced"
        adapter = rain.aligner.adapter
        assert adapter.tokenizer.decode(rain.prepare(talk).tokens).endswith("assistant\nThe sea is")
        assert adapter.decode(rain.prepare(talk).tokens).count("<|im_end|>") == 1
        answers = rain.generate(["Is the sea salty?", talk])
        assert all(answer.text for answer in answers)
        assert "".join(rain.stream("Is the sea salty?")) == answers[0].text
        assert rain.baseline("Is the sea salty?").finish == "length"


def test_a_model_is_the_users_between_passes_and_two_objects_may_share_it(model, small):
    before, inputs = state(model), {"max_new_tokens": 4, "do_sample": False}
    own = model.generate(**ids(PROMPTS[0]), **inputs)
    with Rain(model, Tokenizer(), **small) as first:
        expected = first.generate(PROMPTS[1]).text
        second = Rain(model, Tokenizer(), **small)
        assert torch.equal(model.generate(**ids(PROMPTS[0]), **inputs), own)
        assert first.generate(PROMPTS[1]).text == second.generate(PROMPTS[1]).text == expected
    assert second.generate(PROMPTS[1]).text == expected and state(model) != before
    second.close()
    assert state(model) == before and torch.equal(model.generate(**ids(PROMPTS[0]), **inputs), own)


@pytest.mark.parametrize("wrong", ["gpt2", None, 3])
def test_a_constructor_that_fails_leaves_the_model_as_it_was(model, small, wrong):
    before = state(model)
    with pytest.raises(RainError, match="tokenizer"):
        Rain(model, wrong, **small)
    assert state(model) == before


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"return_dict_in_generate": True}])
def test_options_that_would_change_the_form_of_the_result_are_refused(model, small, options):
    with pytest.raises(RainError, match=next(iter(options))):
        model.generate(**ids(PROMPTS[0]), custom_generate=aligned(Tokenizer(), **small), max_new_tokens=4, **options)
