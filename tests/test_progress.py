"""What the allocation command shows while it runs, and at the end."""

import pytest

from rain import progress
from rain.pool.worker import RunEvent
from rain.progress import Progress, example_answers

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


def test_a_log_tells_of_simulations_before_the_first_prompt_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_S", 0.0)
    shown = Progress(total=3, done=0, verbose=False)
    shown.event(RunEvent("progress", 0, "hh-0", {"simulations": 50, "text": "a"}))
    last = capsys.readouterr().err.splitlines()[-1]
    shown.close()
    assert last.startswith("rain: 0 of 3 prompts") and "simulations/s" in last
