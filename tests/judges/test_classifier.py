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
from rain.judges.base import JudgeConfig, Query, Verdict
from rain.judges.registry import open_judge
from rain.models.info import longest_input


def tiny_classifier(folder: Path, labels: list[str], favoured: int, bias: float = 3.0) -> str:
    """Save a BERT classifier with random weights, but for a bias that makes it always choose one label; name it."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fun", "dull"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model = BertForSequenceClassification(BertConfig(vocab_size=7, max_position_embeddings=16, **size, **names))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([bias if i == favoured else 0.0 for i in range(len(labels))]))
    model.save_pretrained(folder)
    return f"hf:{folder}"


def decide(name: str) -> Verdict:
    return asyncio.run(open_judge(name, JudgeConfig()).decide(Query("r", "pa", "sentiment", "fun " * 40, "dull")))


@pytest.mark.parametrize(
    ("labels", "favoured", "expected"),
    [
        (["negative", "neutral", "positive"], 0, False),
        (["negative", "neutral", "positive"], 2, True),
        (["LABEL_0", "LABEL_1"], 0, False),
        (["LABEL_0", "LABEL_1"], 1, True),
    ],
)
def test_the_more_likely_of_a_negative_and_a_positive_label_decides(
    tmp_path: Path, labels: list[str], favoured: int, expected: bool
) -> None:
    verdict = decide(tiny_classifier(tmp_path, labels, favoured))
    assert verdict.decision is expected
    assert verdict.reply.startswith(f"{labels[-1]}=")


def test_a_classifier_decides_sentiment_alone(tmp_path: Path) -> None:
    judge = open_judge(tiny_classifier(tmp_path, ["negative", "positive"], 0), JudgeConfig())
    assert (judge.version("sentiment"), judge.version("harmless")) == ("classifier-1", None)


@pytest.mark.parametrize(
    ("labels", "bias", "named"),
    [
        (["LABEL_0", "LABEL_1", "LABEL_2"], 3.0, "LABEL_2"),
        (["spam", "ham"], 3.0, "spam"),
        (["negative", "positive"], math.nan, "not a number"),
    ],
)
def test_labels_that_do_not_name_sentiments_and_numbers_that_are_none_are_refused(
    tmp_path: Path, labels: list[str], bias: float, named: str
) -> None:
    with pytest.raises(RainError, match=named):
        decide(tiny_classifier(tmp_path, labels, 0, bias))


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


def test_code_that_comes_with_a_classifier_is_never_executed(tmp_path: Path) -> None:
    name = tiny_classifier(tmp_path, ["neg", "pos"], 0)
    config = json.loads((tmp_path / "config.json").read_text())
    odd = {"AutoConfig": "odd.Odd", "AutoModelForSequenceClassification": "odd.Odd"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "odd", "auto_map": odd}))
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Odd: pass\n")
    with pytest.raises(RainError, match="cannot load model"):
        asyncio.run(open_judge(name, JudgeConfig()).decide(Query("r", "pa", "harmless", "fun", "dull")))
    assert not (tmp_path / "executed").exists()
