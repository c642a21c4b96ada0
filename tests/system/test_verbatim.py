"""Whatever stands in a prompt, the same model is asked the same about it: words of the templates change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.hostile import ODD, SPECIAL_TOKENS, SURROGATES, TEMPLATE_WORDS, unicode_prompts

from rain.core.engine import Continuation, Engine, Usage
from rain.core.types import Tokens
from rain.engines.toy import ToyTokenizer
from rain.evaluators.labels import Evaluation, EvaluationConfig, SelfEvaluator
from rain.evaluators.templates import load_prompt, load_template
from rain.text import Codec, Prompter, TextRules

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = sorted(ROOT.glob("*/templates/prompt*.txt"))
TEMPLATES = sorted(set(ROOT.glob("*/templates/*.txt")) - set(PROMPTS))
TEXTS = (*TEMPLATE_WORDS, *SPECIAL_TOKENS, *ODD)


class Witness(Engine):
    """Keeps what it was asked; finds the first label of each asking more likely."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tokens, tuple[int, ...]]] = []
        self.usage = Usage()

    async def generate(self, prefix: Sequence[int], **options: Any) -> list[Continuation]:
        raise AssertionError("an evaluation generates nothing")

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        self.asked.append((tuple(prefix), tuple(ids)))
        return {token: -1.0 for token in ids}


@pytest.fixture(scope="module", params=["bytes", "smollm2"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return Codec(ToyTokenizer() if request.param == "bytes" else request.getfixturevalue("smollm2_tokenizer"))


def judge(evaluation: Evaluation, codec: Codec, question: str, response: Tokens) -> Witness:
    """Score a response to a question; return what the engine was asked."""
    engine = Witness()
    rules = TextRules(codec, (), False, 0, frozenset())
    asyncio.run(SelfEvaluator(evaluation, EvaluationConfig(), engine, rules, question).score(response))
    return engine


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_words_in_a_prompt_never_change_who_is_judged_and_what_is_asked(path: Path, codec: Codec) -> None:
    template = load_template(path)
    if template.kind == "words" and isinstance(codec.tokenizer, ToyTokenizer):
        template = replace(template, positive=("1",), negative=("0",))  # no word is a single byte
    evaluation = Evaluation(template, codec)
    response = codec.encode(" I would rather not.")
    usual = judge(evaluation, codec, "Why?", response).asked
    for question in TEXTS:
        asked = judge(evaluation, codec, question, response).asked
        before = evaluation.context(question)
        assert codec.decode(before) == template.head + question + template.middle
        assert codec.special.isdisjoint(before[len(codec.bos) :])
        plain = evaluation.context("Why?")
        assert [(ids[len(before) :], labels) for ids, labels in asked] == [
            (ids[len(plain) :], labels) for ids, labels in usual
        ]
        assert all(ids[: len(before) + len(response)] == before + response for ids, _ in asked)


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.parts[-3])
def test_a_prompt_of_any_block_stands_verbatim_in_what_is_answered_and_judged(path: Path, codec: Codec) -> None:
    before, after = load_prompt(path)
    prompter = Prompter(codec, path, chat=False)
    template = load_template(ROOT / "HH" / "templates" / "harmless_letters.txt")
    evaluation = Evaluation(template, codec)
    for question in (*unicode_prompts(), *TEXTS):
        tokens = prompter.encode(question)
        assert codec.decode(tokens) == before + question + after
        assert codec.special.isdisjoint(tokens[len(codec.bos) :])
        assert codec.decode(evaluation.context(question)) == template.head + question + template.middle


def test_lone_surrogates_become_question_marks(codec: Codec) -> None:
    assert codec.decode(codec.encode(SURROGATES)) == "a lone ? or ??"
