"""Formats of local judges: what a model is shown, by its name, and how its reply is read."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import record, score, stored, write_run

from rain.core.errors import RainError
from rain.evaluators.labels import LabelScores
from rain.evaluators.templates import Template
from rain.judges.base import Decision, JudgeConfig, Query
from rain.judges.hf_judge import HFJudge
from rain.judges.prompts import messages
from rain.text import Message

QUERY = {"question": "How?", "response": "Like so.", "right": ("x",)}
TEMPLATE = """=== kind
words
=== examples
Fun. good

=== question
Review: {question}{response}
=== ask
 Opinion:
=== positive
" good"
=== negative
" bad"
"""


class FakeModel:
    """Has fixed replies, and remembers what it was shown."""

    def __init__(self, reply: str = "", log_odds: float = 0.0) -> None:
        self.reply, self.log_odds = reply, log_odds
        self.shown: list[Any] = []

    async def complete(self, text: str, max_tokens: int) -> str:
        self.shown.append((text, max_tokens))
        return self.reply

    async def chat(self, messages: Sequence[Message], max_tokens: int) -> str:
        self.shown.append((list(messages), max_tokens))
        return self.reply

    async def label_logprobs(self, template: Template, question: str, response: str) -> LabelScores:
        self.shown.append((template.head, question, response))
        return LabelScores((self.log_odds,), 0.9)


def decide(name: str, model: FakeModel, criterion: str, **settings: Any) -> Decision:
    judge = HFJudge(name, JudgeConfig(**settings), model)  # type: ignore[arg-type]
    assert judge.version(criterion)
    return asyncio.run(judge.decide(Query("r", "raina", criterion, **QUERY))).decision


@pytest.mark.parametrize(("reply", "expected"), [("Yes", True), ("no", False), ("perhaps", None)])
def test_the_harmbench_classifier_gets_its_own_prompt(reply: str, expected: bool | None) -> None:
    model = FakeModel(reply)
    assert decide("cais/HarmBench-Llama-2-13b-cls", model, "attack") is expected
    [(text, limit)] = model.shown
    assert text.startswith("[INST] <<SYS>>\nYou are a classifier")
    assert "[BEHAVIOR]:\nHow?\n\n[GENERATION]:\nLike so.\n\n---" in text
    assert text.endswith("Answer: [/INST]")
    assert limit == 1


@pytest.mark.parametrize(
    ("reply", "criterion", "expected"),
    [
        ("\n\nunsafe\nS2", "attack", True),
        ("\n\nunsafe\nS2", "harmless", False),
        ("safe", "harmless", True),
        ("safe", "attack", False),
        ("I cannot say", "harmless", None),
    ],
)
def test_llama_guard_sees_the_conversation(reply: str, criterion: str, expected: bool | None) -> None:
    model = FakeModel(reply)
    assert decide("meta-llama/Llama-Guard-3-8B", model, criterion) is expected
    [(turns, _)] = model.shown
    assert [tuple(turn.values()) for turn in turns] == [("user", "How?"), ("assistant", "Like so.")]


@pytest.mark.parametrize(
    ("name", "criterion", "text"),
    [
        ("allenai/truthfulqa-truth-judge-llama2-7B", "true", "Q: How?\nA: Like so.\nTrue:"),
        ("allenai/truthfulqa-info-judge-llama2-7B", "info", "Q: How?\nA: Like so.\nHelpful:"),
    ],
)
def test_truthfulqa_judges_get_the_format_of_their_training(name: str, criterion: str, text: str) -> None:
    model = FakeModel(" yes")
    assert decide(name, model, criterion) is True
    assert model.shown == [(text, 1)]


@pytest.mark.parametrize("name", ["cais/HarmBench-Llama-2-13b-cls", "Llama-Guard-3-8B", "truth-judge", "info-judge"])
def test_a_special_judge_decides_nothing_else(name: str) -> None:
    assert HFJudge(name, JudgeConfig()).version("helpful") is None


def test_any_other_chat_model_gets_the_prompts_of_the_openai_judge() -> None:
    model = FakeModel("Yes.")
    assert decide("Qwen/Qwen2.5-7B-Instruct", model, "attack", judge_max_tokens=7) is True
    assert model.shown == [(messages(Query("r", "", "attack", **QUERY)), 7)]


@pytest.mark.parametrize(("log_odds", "expected"), [(0.4, True), (-0.4, False)])
def test_label_words_decide_sentiment(tmp_path: Path, log_odds: float, expected: bool) -> None:
    (tmp_path / "words.txt").write_text(TEMPLATE)
    model = FakeModel(log_odds=log_odds)
    assert decide("some-model", model, "sentiment", judge_template=str(tmp_path / "words.txt")) is expected
    assert model.shown == [("Fun. good\nReview: ", "How?", "Like so.")]


def test_the_version_of_a_label_word_judge_changes_with_its_template(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    config = JudgeConfig(judge_template=str(path))
    path.write_text(TEMPLATE)
    first = HFJudge("some-model", config).version("sentiment")
    path.write_text(TEMPLATE.replace("Review", "Text"))
    assert HFJudge("some-model", config).version("sentiment") != first
    assert HFJudge("smollm2", JudgeConfig()).version("sentiment") == "words-7ade79ca", "stored verdicts stay valid"


@pytest.mark.parametrize("content", [None, TEMPLATE.replace("words\n", "letters\n", 1)])
def test_an_unfit_label_word_template_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "words.txt"
    if content:
        path.write_text(content)
    with pytest.raises(RainError, match="words.txt"):
        HFJudge("some-model", JudgeConfig(judge_template=str(path)))


def test_a_judge_runs_on_another_engine_many_queries_at_once(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "truth", [record(i, f"answer {i}", f"reply {i}") for i in range(6)])
    first = score(outdir, "hf:truth-judge", JudgeConfig(judge_engine="toy", judge_concurrency=4))
    assert (first.asked, first.calls, first.failed) == (12, 12, 0)
    replies = {(line["id"], line["answer"]): line["reply"] for line in stored(outdir, "hf:truth-judge")}
    (outdir / "scores_hf_truth-judge.jsonl").unlink()
    score(outdir, "hf:truth-judge", JudgeConfig(judge_engine="toy", judge_concurrency=1))
    assert replies == {(line["id"], line["answer"]): line["reply"] for line in stored(outdir, "hf:truth-judge")}
    assert len(set(replies.values())) > 1


def test_the_spending_guard_holds_for_local_judges(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "truth", [record(i, "a", "b") for i in range(6)])
    with pytest.raises(RainError, match="--max-calls 5"):
        score(outdir, "hf:truth-judge", JudgeConfig(judge_engine="toy", max_calls=5))
    assert len(stored(outdir, "hf:truth-judge")) == 5
