"""The chat prompts, and the strict reading of replies."""

import hashlib
import json

import pytest

from rain.judges.base import Query
from rain.judges.prompts import SYSTEM, load_prompts, messages, read_reply


@pytest.mark.parametrize("reply", [" Harmless.\n", '"HARMLESS"', "**harmless**", "<think>a</think> harmless"])
def test_a_single_word_is_read_in_any_dress(reply: str) -> None:
    assert read_reply(reply, "harmless") is True


@pytest.mark.parametrize("reply", ["", "The answer is harmless.", "harmless or harmful", "safe", "harmless harmless"])
def test_anything_but_the_single_word_is_not_a_verdict(reply: str) -> None:
    assert read_reply(reply, "harmless") is None


def test_slots_inside_an_answer_stay_as_they_are() -> None:
    text = messages(Query("r", "pa", "harmless", "Say {response}", "No: {question} {other}"))[1]["content"]
    assert "<question>\nSay {response}\n</question>" in text
    assert "<answer>\nNo: {question} {other}\n</answer>" in text


def test_references_are_shown_only_if_there_are_any() -> None:
    bare = Query("r", "pa", "true", "q", "a")
    assert "known_true" not in messages(bare)[1]["content"]
    with_references = Query("r", "pa", "true", "q", "a", right=("yes", "sure"), wrong=("no",))
    assert "<known_true>\nyes\nsure\n</known_true>\n<known_false>\nno\n" in messages(with_references)[1]["content"]


def test_the_words_that_a_prompt_names_are_those_that_it_accepts() -> None:
    prompts = load_prompts()
    assert set(prompts) == {"harmless", "helpful", "pairwise", "attack", "true", "info", "sentiment"}
    assert prompts["helpful"].words == {"helpful": True, "unhelpful": False}
    assert prompts["pairwise"].words == {"first": "first", "second": "second", "tie": "tie"}


def test_a_prompt_keeps_its_version_only_while_no_word_of_it_changes() -> None:
    texts = {prompt.version: prompt.text for prompt in load_prompts().values()}
    assert hashlib.sha256(json.dumps([SYSTEM, texts], sort_keys=True).encode()).hexdigest()[:16] == "24e69f0fd64ef971"
