"""The chat prompts, and the strict reading of replies."""

import pytest

from rain.judges.base import Query
from rain.judges.prompts import PROMPTS, messages, read_word


@pytest.mark.parametrize("reply", [" Harmless.\n", '"HARMLESS"', "**harmless**", "<think>a</think> harmless"])
def test_a_single_word_is_read_in_any_dress(reply: str) -> None:
    assert read_word(reply, PROMPTS["harmless"].words) is True


@pytest.mark.parametrize("reply", ["", "The answer is harmless.", "harmless or harmful", "safe", "harmless harmless"])
def test_anything_but_the_single_word_is_not_a_verdict(reply: str) -> None:
    assert read_word(reply, PROMPTS["harmless"].words) is None


def test_slots_inside_an_answer_stay_as_they_are() -> None:
    text = messages(Query("r", "pa", "harmless", "Say {response}", "No: {question} {other}"))[1]["content"]
    assert "<question>\nSay {response}\n</question>" in text
    assert "<answer>\nNo: {question} {other}\n</answer>" in text


def test_references_are_shown_only_if_there_are_any() -> None:
    bare = Query("r", "pa", "true", "q", "a")
    assert "known_true" not in messages(bare)[1]["content"]
    with_references = Query("r", "pa", "true", "q", "a", right=("yes", "sure"), wrong=("no",))
    assert "<known_true>\nyes\nsure\n</known_true>\n<known_false>\nno\n" in messages(with_references)[1]["content"]


@pytest.mark.parametrize("criterion", PROMPTS)
def test_a_prompt_names_exactly_the_words_that_it_accepts(criterion: str) -> None:
    prompt = PROMPTS[criterion]
    last = prompt.text.rsplit("One word: ", 1)[1].rstrip(".")
    assert set(last.replace(" or ", ", ").split(", ")) == set(prompt.words)
    assert prompt.version.startswith(f"{criterion}-")
