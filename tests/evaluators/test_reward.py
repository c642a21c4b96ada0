"""``reward:NAME``: a tiny random classifier in place of a reward model."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from support.judge import score_texts
from support.tiny_models import IDS, SHAPE, save_tiny_model
from transformers import LlamaConfig, LlamaForSequenceClassification

from rain.core.errors import RainError
from rain.evaluators.reward import RewardEvaluator


def saved(folder, labels, config=LlamaConfig, kind=LlamaForSequenceClassification):
    """Save a classifier with these labels; return its folder and the model."""
    save_tiny_model(folder, 256)
    torch.manual_seed(1)
    model = kind(config(**SHAPE, **IDS, id2label=dict(enumerate(labels)))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.25)
    model.save_pretrained(folder)
    return folder, model


def logits(model, question, text):
    with torch.inference_mode():
        return model(torch.tensor([list((question + text).encode())])).logits[0].tolist()


@pytest.mark.parametrize("kind", ["Llama", "Bert"])
def test_the_score_is_tanh_of_half_the_only_logit_in_any_batch(kind, tmp_path):
    classes = (getattr(transformers, f"{kind}{part}") for part in ("Config", "ForSequenceClassification"))
    folder, model = saved(tmp_path, ["reward"], *classes)
    texts = ["a", "another text", "bb"]
    scores, scorer = score_texts(RewardEvaluator(str(folder)), texts, "Q")
    assert scores == pytest.approx([math.tanh(logits(model, "Q", text)[0] / 2) for text in texts], abs=1e-2)
    assert len({round(score, 3) for score in scores}) == 3
    assert scorer.usage.tokens_computed == sum(1 + len(text) for text in texts)


def test_a_text_that_is_too_long_loses_the_end_of_its_longer_part(tmp_path):
    folder, model = saved(tmp_path, ["reward"])
    evaluator = RewardEvaluator(str(folder))
    evaluator.limit = 20
    [score], scorer = score_texts(evaluator, ["t" * 100], "Question")
    assert score == pytest.approx(math.tanh(logits(model, "Question", "t" * 12)[0] / 2), abs=1e-2)
    assert scorer.usage.tokens_computed == 20


def test_a_label_s_log_odds_count_and_one_has_to_be_chosen(tmp_path):
    folder, model = saved(tmp_path, ["bad", "so so", "good"])
    [score], _ = score_texts(RewardEvaluator(f"{folder},label=good"), ["text"], "Q")
    chances = torch.tensor(logits(model, "Q", "text")).softmax(0)
    assert score == pytest.approx(2 * float(chances[2]) - 1, abs=1e-2)
    for name in (str(folder), f"{folder},label=great"):
        with pytest.raises(RainError, match=r"label=bad\|so so\|good"):
            RewardEvaluator(name)


def test_a_language_model_is_no_reward_model(tmp_path):
    with pytest.raises(RainError, match="not a sequence classification model"):
        RewardEvaluator(str(save_tiny_model(tmp_path, 256)))
