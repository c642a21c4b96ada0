"""Sequence classifiers as judges of sentiment."""

import asyncio
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from rain.core.errors import RainError
from rain.judges.base import JudgeConfig, Query
from rain.judges.registry import open_judge
from rain.models.info import longest_input


def tiny_classifier(folder: Path, labels: dict[int, str], favoured: int, bias: float = 3.0) -> str:
    """Save a BERT classifier with random weights, but for a bias that makes it always choose one label; name it."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fun", "dull"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    names = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    model = BertForSequenceClassification(BertConfig(vocab_size=7, max_position_embeddings=16, **size, **names))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([bias if i == favoured else 0.0 for i in labels]))
    model.save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize(("favoured", "expected"), [(0, False), (2, True)])
def test_the_more_likely_of_two_label_names_decides(tmp_path: Path, favoured: int, expected: bool) -> None:
    labels = {0: "negative", 1: "neutral", 2: "positive"}
    judge = open_judge(tiny_classifier(tmp_path, labels, favoured), JudgeConfig())
    assert judge.version("sentiment") == "classifier-1"
    assert judge.version("harmless") is None
    verdict = asyncio.run(judge.decide(Query("r", "pa", "sentiment", "fun " * 40, "dull")))
    assert verdict.decision is expected
    assert verdict.reply.startswith("positive=")


@pytest.mark.parametrize(("favoured", "expected"), [(0, False), (1, True)])
def test_two_labels_without_names_are_negative_and_positive(tmp_path: Path, favoured: int, expected: bool) -> None:
    judge = open_judge(tiny_classifier(tmp_path, {0: "LABEL_0", 1: "LABEL_1"}, favoured), JudgeConfig())
    assert asyncio.run(judge.decide(Query("r", "pa", "sentiment", "fun", "dull"))).decision is expected


def test_three_labels_without_names_are_refused(tmp_path: Path) -> None:
    labels = {i: f"LABEL_{i}" for i in range(3)}
    with pytest.raises(RainError, match="LABEL_2"):
        judge = open_judge(tiny_classifier(tmp_path, labels, 1), JudgeConfig())
        asyncio.run(judge.decide(Query("r", "pa", "sentiment", "fun", "dull")))


def test_positions_that_begin_after_the_padding_are_not_read_past() -> None:
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    model = RobertaForSequenceClassification(RobertaConfig(max_position_embeddings=18, pad_token_id=1, **size))
    tokenizer = SimpleNamespace(model_max_length=10**30)
    assert longest_input(model, tokenizer) == 16
    model(torch.full((1, 16), 3))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 17), 3))
    tokenizer.model_max_length = 7
    assert longest_input(model, tokenizer) == 7


def test_labels_that_say_nothing_about_sentiment_are_refused(tmp_path: Path) -> None:
    judge = open_judge(tiny_classifier(tmp_path, {0: "spam", 1: "ham"}, 0), JudgeConfig())
    with pytest.raises(RainError, match="spam"):
        asyncio.run(judge.decide(Query("r", "pa", "sentiment", "fun", "dull")))


def test_a_classifier_whose_numbers_are_none_decides_nothing(tmp_path: Path) -> None:
    judge = open_judge(tiny_classifier(tmp_path, {0: "negative", 1: "positive"}, 0, math.nan), JudgeConfig())
    with pytest.raises(RainError, match="not a number"):
        asyncio.run(judge.decide(Query("r", "pa", "sentiment", "fun", "dull")))


def test_code_that_comes_with_a_classifier_is_never_executed(tmp_path: Path) -> None:
    name = tiny_classifier(tmp_path, {0: "neg", 1: "pos"}, 0)
    config = json.loads((tmp_path / "config.json").read_text())
    odd = {"AutoConfig": "odd.Odd", "AutoModelForSequenceClassification": "odd.Odd"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "odd", "auto_map": odd}))
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Odd: pass\n")
    with pytest.raises(RainError, match="cannot load model"):
        asyncio.run(open_judge(name, JudgeConfig()).decide(Query("r", "pa", "harmless", "fun", "dull")))
    assert not (tmp_path / "executed").exists()
