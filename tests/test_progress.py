"""What the allocation command shows at the end."""

import pytest

from rain.progress import example_answers

EQUAL = {"id": "r1", "question": "Q1", "raina": "same", "pa": "same"}
DIFFERENT = {"id": "r2", "question": "Q2", "raina": "R", "pa": "P", "method": "rain"}


def test_the_first_prompt_whose_answers_differ_is_shown() -> None:
    assert example_answers([EQUAL, DIFFERENT]) == "prompt: Q2\ngreedy: P\nRAIN:   R"
    assert example_answers([EQUAL]).startswith("prompt: Q1")


@pytest.mark.parametrize("name", ["question", "raina", "pa"])
def test_a_record_without_one_of_the_texts_is_skipped(name: str) -> None:
    lacking = {key: value for key, value in DIFFERENT.items() if key != name}
    for damaged in (lacking, {**DIFFERENT, name: 3}):
        assert example_answers([damaged]) == ""
        assert example_answers([damaged, EQUAL]).startswith("prompt: Q1")
