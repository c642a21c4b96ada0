"""Sentence encoders pool as they were trained to: by the mean over all tokens, or by the first one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.tiny_models import LetterEncoder, letter_tokenizer

from rain.core.errors import RainError, UnclearFault
from rain.encoder import MeanPoolingEncoder
from rain.models.pooling import pools_cls

OFF = {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}


def encoder_folder(folder, pooling):
    (folder / "config.json").write_text("{}")
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        text = pooling if isinstance(pooling, str) else json.dumps({"word_embedding_dimension": 384, **pooling})
        (folder / "1_Pooling" / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("pooling", "cls"),
    [
        (None, False),
        ({**OFF, "pooling_mode_cls_token": True}, True),
        ({**OFF, "pooling_mode_mean_tokens": True}, False),
        ({"pooling_mode": "cls"}, True),
        ({"pooling_mode": "mean"}, False),
        ({"pooling_mode": ["cls"]}, True),
    ],
)
def test_the_files_of_an_encoder_say_how_it_pools(pooling, cls, tmp_path):
    assert pools_cls(encoder_folder(tmp_path, pooling)) is cls


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({**OFF, "pooling_mode_lasttoken": True}, "lasttoken.*mean and cls"),
        ({**OFF, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls, max"),
        (OFF, "nothing"),
        ("{", "1_Pooling"),
        ("[1]", "1_Pooling"),
        ({"pooling_mode": 7}, "1_Pooling"),
        ("[" * 200_000, "1_Pooling"),
    ],
    ids=range(7),
)
def test_another_way_of_pooling_or_a_broken_file_is_refused_in_one_sentence(pooling, message, tmp_path):
    with pytest.raises(RainError, match=message) as caught:
        pools_cls(encoder_folder(tmp_path, pooling))
    assert "\n" not in str(caught.value)


def test_the_embedded_encoder_pools_by_the_mean():
    assert not pools_cls("minilm")


def left_padded(texts, **options):
    batch = letter_tokenizer(texts)
    return type(batch)({name: values.flip(1) for name, values in batch.items()})


def test_an_encoder_whose_numbers_are_none_is_an_error_and_no_similarity():
    model = LetterEncoder().requires_grad_(False)
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(UnclearFault, match="--encoder"):
        MeanPoolingEncoder(model, letter_tokenizer).embed(["axyz", "bq"])


def test_an_encoder_of_the_first_token_takes_its_hidden_state_wherever_the_padding_is():
    model = LetterEncoder().requires_grad_(False)
    firsts = torch.nn.functional.normalize(model.vectors(torch.tensor(list(b"ab"))), dim=1).numpy()
    for tokenizer, texts in ((letter_tokenizer, ["axyz", "bq"]), (left_padded, ["zyxa", "qb"])):
        found = MeanPoolingEncoder(model, tokenizer, cls=True).embed(texts)
        assert np.allclose(found, firsts)
    mean = MeanPoolingEncoder(model, letter_tokenizer).embed(["axyz"])[0]
    assert not np.allclose(mean, firsts[0])


class CrowdedEncoder(LetterEncoder):
    """An encoder that finds no memory where it is."""

    moved, error = "", torch.OutOfMemoryError("CUDA out of memory (simulated)")

    def forward(self, input_ids, attention_mask):
        if not self.moved:
            raise self.error
        return super().forward(input_ids, attention_mask)

    def to(self, device):
        assert not self.moved, "it moves once, for good"
        self.moved = device
        return super().to(device)


@pytest.mark.parametrize("error", [CrowdedEncoder.error, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")])
def test_an_encoder_that_finds_no_memory_beside_the_model_goes_on_on_the_cpu(error, capsys, monkeypatch):
    monkeypatch.setattr(CrowdedEncoder, "error", error)
    crowded, roomy = (kind().requires_grad_(False) for kind in (CrowdedEncoder, LetterEncoder))
    texts = ["axyz", "bq", "c"]
    encoder = MeanPoolingEncoder(crowded, letter_tokenizer, batch=2)
    assert np.allclose(encoder.embed(texts), MeanPoolingEncoder(roomy, letter_tokenizer).embed(texts))
    assert crowded.moved == "cpu"
    assert capsys.readouterr().err == "rain: out of memory: the sentence encoder moves to the CPU\n"
