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

HARMBENCH, GUARD = "cais/HarmBench-Llama-2-13b-cls", "meta-llama/Llama-Guard-3-8B"
TRUTH, INFO = (f"allenai/truthfulqa-{name}-judge-llama2-7B" for name in ("truth", "info"))
QUERY = {"question": "How?", "response": "Like so.", "right": ("x",)}
WORDS = """=== kind\nwords\n=== examples\nFun. good\n\n=== question\nReview: {question}{response}
=== ask\n Opinion:\n=== positive\n" good"\n=== negative\n" bad"\n"""


class FakeModel:
    """Has fixed replies, and remembers what it was shown."""

    def __init__(self, reply: str = "", log_odds: float = 0.0) -> None:
        self.reply, self.log_odds = reply, log_odds
        self.shown: list[tuple[Any, ...]] = []

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


@pytest.mark.parametrize(
    ("name", "criterion", "reply", "expected"),
    [
        (HARMBENCH, "attack", "Yes", True),
        (HARMBENCH, "attack", "no", False),
        (HARMBENCH, "attack", "perhaps", None),
        (GUARD, "attack", "\n\nunsafe\nS2", True),
        (GUARD, "attack", "safe", False),
        (GUARD, "harmless", "\n\nunsafe\nS2", False),
        (GUARD, "harmless", "safe", True),
        (GUARD, "harmless", "I cannot say", None),
        (TRUTH, "true", " yes", True),
        (INFO, "info", " no", False),
        ("Qwen/Qwen2.5-7B-Instruct", "helpful", "Unhelpful.", False),
    ],
)
def test_a_reply_is_read_by_the_models_own_words(name: str, criterion: str, reply: str, expected: Decision) -> None:
    assert decide(name, FakeModel(reply), criterion) is expected


@pytest.mark.parametrize(
    ("name", "criterion", "shown"),
    [
        (GUARD, "attack", ([{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Like so."}], 24)),
        (TRUTH, "true", ("Q: How?\nA: Like so.\nTrue:", 1)),
        (INFO, "info", ("Q: How?\nA: Like so.\nHelpful:", 1)),
        ("Qwen/Qwen2.5-7B-Instruct", "attack", (messages(Query("r", "", "attack", **QUERY)), 7)),
    ],
)
def test_a_model_is_shown_its_own_format(name: str, criterion: str, shown: Any) -> None:
    model = FakeModel()
    decide(name, model, criterion, judge_max_tokens=7)
    assert model.shown == [shown]


def test_the_harmbench_classifier_gets_the_prompt_of_its_training() -> None:
    model = FakeModel()
    decide(HARMBENCH, model, "attack")
    [(text, limit)] = model.shown
    assert text.startswith("[INST] <<SYS>>\nYou are a classifier")
    assert "[BEHAVIOR]:\nHow?\n\n[GENERATION]:\nLike so.\n\n---" in text
    assert text.endswith("Answer: [/INST]")
    assert limit == 1


@pytest.mark.parametrize("name", [HARMBENCH, GUARD, TRUTH, INFO])
def test_a_special_judge_decides_nothing_else(name: str) -> None:
    assert HFJudge(name, JudgeConfig()).version("helpful") is None


@pytest.mark.parametrize(("log_odds", "expected"), [(0.4, True), (-0.4, False)])
def test_label_words_decide_sentiment(tmp_path: Path, log_odds: float, expected: bool) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    model = FakeModel(log_odds=log_odds)
    assert decide("some-model", model, "sentiment", judge_template=str(tmp_path / "words.txt")) is expected
    assert model.shown == [("Fun. good\nReview: ", "How?", "Like so.")]


def test_the_version_of_a_label_word_judge_changes_with_its_template(tmp_path: Path) -> None:
    versions = {HFJudge("smollm2", JudgeConfig()).version("sentiment")}
    assert versions == {"words-7ade79ca"}, "stored verdicts stay valid"
    for text in (WORDS, WORDS.replace("Review", "Text")):
        (tmp_path / "words.txt").write_text(text)
        config = JudgeConfig(judge_template=str(tmp_path / "words.txt"))
        versions.add(HFJudge("some-model", config).version("sentiment"))
    assert len(versions) == 3


@pytest.mark.parametrize("text", ["", WORDS.replace("words\n", "letters\n", 1)])
def test_an_unfit_label_word_template_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(RainError, match="words.txt"):
        HFJudge("some-model", JudgeConfig(judge_template=str(tmp_path / "words.txt")))


def test_a_judge_runs_on_another_engine_with_many_queries_at_once(tmp_path: Path) -> None:
    replies = []
    for width in (1, 4):
        outdir = write_run(tmp_path / str(width), "truth", [record(i, f"a{i}", f"b{i}") for i in range(6)])
        summary = score(outdir, "hf:truth-judge", JudgeConfig(judge_engine="toy", judge_concurrency=width))
        assert (summary.asked, summary.calls, summary.failed) == (12, 12, 0)
        replies.append({(line["id"], line["answer"]): line["reply"] for line in stored(outdir, "hf:truth-judge")})
    assert replies[0] == replies[1]
    assert len(set(replies[0].values())) > 1


def test_the_spending_guard_holds_for_local_judges(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "truth", [record(i, "a", "b") for i in range(6)])
    with pytest.raises(RainError, match="--max-calls 5"):
        score(outdir, "hf:truth-judge", JudgeConfig(judge_engine="toy", max_calls=5))
    assert len(stored(outdir, "hf:truth-judge")) == 5
