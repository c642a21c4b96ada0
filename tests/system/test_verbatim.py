"""Whatever a prompt says, the same model is asked the same about it: words of the templates change nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from support.hostile import ODD, SPECIAL_TOKENS, SURROGATES, TEMPLATE_WORDS, unicode_prompts
from support.judge import Judge, open_scorer
from support.tiny_task import PROMPT_FILES, ROOT, SHIPPED

from rain.engines.toy import ToyTokenizer
from rain.evaluators.labels import SelfEvalPrompt
from rain.evaluators.templates import Template, load_prompt
from rain.prompts import PromptFormatter
from rain.text import TokenizerAdapter

HARMLESS = ROOT / "HH" / "templates" / "harmless_letters.txt"
TEXTS = (*TEMPLATE_WORDS, *SPECIAL_TOKENS, *ODD)


@pytest.fixture(scope="module", params=["bytes", "smollm2"])
def adapter(request: pytest.FixtureRequest) -> TokenizerAdapter:
    bytewise = request.param == "bytes"
    return TokenizerAdapter(ToyTokenizer() if bytewise else request.getfixturevalue("smollm2_tokenizer"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_words_in_a_prompt_never_change_what_is_asked(path: Path, adapter: TokenizerAdapter) -> None:
    template = Template.from_file(path)
    if template.kind == "words" and isinstance(adapter.tokenizer, ToyTokenizer):
        template = replace(template, positive=("1",), negative=("0",))  # no word is a single byte
    prompt = SelfEvalPrompt(template, adapter)
    response = adapter.encode(" I would rather not.")
    wanted = [(ask.tail, (*ask.positive, *ask.negative)) for ask in prompt.label_prompts]
    for question in ("Why?", *TEXTS):
        before = prompt.context(question)
        assert adapter.decode(before) == template.head + question + template.middle
        assert adapter.special.isdisjoint(before[len(adapter.bos) :])
        judge = Judge()
        asyncio.run(open_scorer(prompt, judge, question).score(response))
        assert judge.asked == [(before + response + tail, labels) for tail, labels in wanted]


@pytest.mark.parametrize("path", PROMPT_FILES, ids=lambda path: path.parts[-3])
def test_a_prompt_of_any_block_is_answered_and_judged_verbatim(path: Path, adapter: TokenizerAdapter) -> None:
    prompt_file = load_prompt(path)
    formatter, template = PromptFormatter(adapter, prompt_file), Template.from_file(HARMLESS)
    judged = SelfEvalPrompt(template, adapter)
    for question in (*unicode_prompts(), *TEXTS):
        tokens = formatter.encode(question)
        assert adapter.decode(tokens) == prompt_file.before + question + prompt_file.after
        assert adapter.special.isdisjoint(tokens[len(adapter.bos) :])
        assert adapter.decode(judged.context(question)) == template.head + question + template.middle


def test_lone_surrogates_become_question_marks(adapter: TokenizerAdapter) -> None:
    assert adapter.decode(adapter.encode(SURROGATES)) == "a lone ? or ??"
