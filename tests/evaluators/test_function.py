"""``python:MODULE:FUNCTION``: all texts that wait in one call, equal ones once; its faults are errors, never scores."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest
from support.judge import score_texts

from rain.core.errors import RainError
from rain.evaluators.function import FunctionEvaluator, PythonEvaluator
from rain.evaluators.texts import Batcher

CALLS = []


def by_length(prompt, continuations, params):
    CALLS.append((prompt, list(continuations), params, threading.current_thread() is threading.main_thread()))
    return [len(text) / 10 for text in continuations]


def evaluator(function):
    return PythonEvaluator(f"{__name__}:{function.__name__}")


def test_texts_that_wait_at_once_are_one_call_in_a_thread_and_equal_ones_are_asked_once():
    CALLS.clear()
    scores, scorer = score_texts(evaluator(by_length), ["abc", "d", "abc"], "Q?")
    assert scores == [0.3, 0.1, 0.3]
    assert CALLS == [("Q?", ["abc", "d"], {}, False)]
    assert scorer.evaluations == 2


FAULTS = {"ZeroDivisionError": lambda: 1 / 0, "1 scores for 2 texts": lambda: [0.5], "nan": lambda: [0.5, math.nan]}


def faulty(prompt, continuations, params):
    return FAULTS[prompt]()


@pytest.mark.parametrize("named", FAULTS)
def test_what_goes_wrong_in_a_function_is_an_error(named, capfd):
    with pytest.raises(RainError, match=named):
        score_texts(evaluator(faulty), ["a", "b"], named)
    assert "Traceback" in capfd.readouterr().err


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(RainError, match="python:json:nothing cannot be imported"):
        PythonEvaluator("json:nothing")


def test_what_comes_during_a_call_waits_for_the_next_one():
    calls, asked = [], threading.Event()

    def call(items):
        calls.append(items)
        assert asked.wait(30)
        return [-item for item in items]

    async def run():
        batcher = Batcher(call)
        first = asyncio.create_task(batcher(1))
        while not calls:
            await asyncio.sleep(0.001)
        rest = asyncio.gather(batcher(2), batcher(3), batcher(2))
        await asyncio.sleep(0)
        asked.set()
        return [await first, *await rest]

    assert asyncio.run(run()) == [-1, -2, -3, -2]
    assert calls == [[1], [2, 3]]


def test_an_exception_is_that_of_its_own_item():
    def call(items):
        if 2 in items:
            raise ValueError("two")
        return [-item for item in items]

    async def run():
        batcher = Batcher(call)
        return await asyncio.gather(*map(batcher, (1, 2, 3)), return_exceptions=True)

    one, two, three = asyncio.run(run())
    assert (one, str(two), three) == (-1, "two", -3)


def test_a_function_gets_one_text_of_a_search_at_a_time():
    inside, together = [], []

    def function(prompt, text):
        inside.append(text)
        together.append(len(inside))
        threading.Event().wait(0.01)
        inside.remove(text)
        return 0.0

    score_texts(FunctionEvaluator(function), ["a", "b", "c"])
    assert together == [1, 1, 1]
