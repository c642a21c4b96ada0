"""What judges ask of a language model, with the embedded SmolLM2."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rain.engines.registry import ModelConfig, PlacementConfig, open_engine
from rain.engines.toy import ToyEngine
from rain.evaluators.templates import Template
from rain.judges.base import JudgeConfig, NoReply, Query
from rain.judges.hf_judge import HFJudge
from rain.judges.judge_model import JudgeModel

LABELS = """=== kind\nwords\n=== question\n{question}{response}\n=== ask\n is
=== positive\n" Paris"\n=== negative\n" Rome"\n" London"\n"""


def ask(work: Callable[[JudgeModel], Coroutine[Any, Any, Any]]) -> Any:
    """Open the embedded model in float32 and let it work."""

    async def go() -> Any:
        engine, tokenizer = open_engine(ModelConfig("hf", "smollm2", "float32"), PlacementConfig())
        try:
            return await work(JudgeModel(engine, tokenizer))
        finally:
            await engine.close()

    return asyncio.run(go())


def test_label_scores_are_the_models_next_token_log_probabilities(tmp_path: Path, smollm2: tuple[Any, Any]) -> None:
    (tmp_path / "labels.txt").write_text(LABELS)
    template = Template.from_file(tmp_path / "labels.txt")
    scores = ask(lambda model: model.label_logprobs(template, "The capital", " of France"))
    model, tokenizer = smollm2
    logits = model(tokenizer("The capital of France is", return_tensors="pt")["input_ids"]).logits[0, -1]
    labels = [tokenizer.encode(label)[0] for label in (" Paris", " Rome", " London")]
    paris, rome, london = logits.log_softmax(-1)[labels].tolist()
    assert scores.log_odds == pytest.approx((paris - max(rome, london),), abs=1e-4)
    assert scores.mass == pytest.approx(math.exp(paris) + math.exp(rome) + math.exp(london), rel=1e-4)
    assert scores.log_odds[0] > 0


def test_replies_are_greedy_and_as_short_as_asked() -> None:
    async def work(model: JudgeModel) -> list[str]:
        turn = [{"role": "user", "content": "What is the capital of France? One word."}]
        replies = (model.complete("The capital of France is", 1), *(model.chat(turn, length) for length in (8, 8, 3)))
        return await asyncio.gather(*replies)

    word, first, second, short = ask(work)
    assert word.strip() == "Paris"
    assert first == second
    assert first.startswith(short)
    assert len(short) < len(first)


def test_the_embedded_model_judges_sentiment_by_label_words() -> None:
    async def work(model: JudgeModel) -> list[float]:
        judge = HFJudge("smollm2", JudgeConfig(), model)
        texts = (" a joy from start to end, and I will see it again.", " so awful and dull that I walked out.")
        verdicts = [judge.decide(Query("r", "pa", "sentiment", "The film was", text)) for text in texts]
        return [float(found.reply.split()[0].removeprefix("log_odds=")) for found in await asyncio.gather(*verdicts)]

    joy, awful = ask(work)
    assert joy > awful


def test_a_text_that_is_too_long_is_skipped() -> None:
    engine = ToyEngine()
    engine.context = 8
    with pytest.raises(NoReply, match="context of 8") as caught:
        asyncio.run(JudgeModel(engine, engine.tokenizer).complete("one two three", 1))
    assert caught.value.refused
