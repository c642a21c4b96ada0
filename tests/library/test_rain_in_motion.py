"""``Rain`` in motion: streams, event loops, threads, and that it frees everything however a call ends."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import aclosing

import pytest
from support.tiny_task import WORDS, saved
from support.watched import QUESTIONS, decided

from rain import Budget, RainError
from rain.events import receive
from rain.loop_thread import LoopThread


@pytest.mark.usefixtures("difficult")
def test_the_pieces_of_a_stream_are_the_answer_whatever_it_contains(rain):
    answers = {}
    for seed in range(10):
        answers[seed] = rain.generate("Hi", seed=seed)
        pieces = list(rain.stream("Hi", seed=seed))
        assert "".join(pieces) == answers[seed].text
        assert "" not in pieces
        assert answers[seed].text in "".join(commit.text for commit in answers[seed].commits)
    commits = [commit.text for answer in answers.values() for commit in answer.commits]
    assert "" in commits and not any("\ufffd" in text for text in commits), "an emoji was split over two commits"
    assert any("\U0001f600" in answer.text for answer in answers.values()), "and it arrived whole"
    assert {"stop", "length"} <= {answer.finish for answer in answers.values()}
    assert any(text.endswith(" ") for text in commits), "whitespace was held back"


def test_pieces_arrive_while_the_search_is_running(open_rain):
    scored, go_on = [], threading.Event()

    def scorer(prompt, text):
        scored.append(text)
        assert len(scored) < 30 or go_on.wait(60)  # the first commits take fewer evaluations
        return 0.0

    rain = open_rain(scorer=scorer)
    pieces = rain.stream("Why?")
    first = next(pieces)
    before = len(scored)
    go_on.set()
    assert first + "".join(pieces) == rain.generate("Why?").text
    assert before <= 30 < len(scored)


def test_async_methods_work_inside_a_running_loop(rain):
    async def run():
        answers = await asyncio.gather(rain.agenerate(QUESTIONS), *map(rain.agenerate, QUESTIONS))
        return answers, [piece async for piece in rain.astream("Why")]

    (together, *alone), pieces = asyncio.run(run())
    assert [decided(answer) for answer in together] == [decided(answer) for answer in alone]
    assert "".join(pieces) == rain.generate("Why").text


def test_a_prepared_prompt_takes_no_options_that_would_be_lost(rain):
    async def run():
        prepared = await rain.aprepare("Why?", seed=4)
        found = [event async for event in rain.aevents(prepared, budget=Budget(simulations=5))]
        assert found[-1].finish == "budget"
        async for _ in rain.aevents(prepared, seed=5):
            pass

    with pytest.raises(RainError, match="prepared already; seed"):
        asyncio.run(run())


def test_blocking_calls_work_inside_a_running_loop(rain):
    async def notebook():
        return rain.generate("Why?").text, "".join(rain.stream("Why?")), rain.baseline("Why?").text

    assert asyncio.run(notebook()) == (rain.generate("Why?").text,) * 2 + (rain.baseline("Why?").text,)


def test_several_threads_can_ask_at_once(rain):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(rain.generate, QUESTIONS * 3))
    assert [decided(answer) for answer in answers] == [decided(rain.generate(q)) for q in QUESTIONS] * 3


@pytest.mark.parametrize("call", ["stream", "generate", "agenerate", "astream"])
def test_an_error_reaches_whoever_asked(call, open_rain):
    def scorer(prompt, text):
        raise LookupError("no score today")

    async def whole():
        return [piece async for piece in rain.astream("Why?")]

    rain = open_rain(scorer=scorer)
    calls = {
        "stream": lambda: list(rain.stream("Why?")),
        "generate": lambda: rain.generate(["Why?", "Why"]),
        "agenerate": lambda: asyncio.run(rain.agenerate("Why?")),
        "astream": lambda: asyncio.run(whole()),
    }
    with pytest.raises(LookupError, match="no score today"):
        calls[call]()


@pytest.fixture
def stuck(open_rain):
    """A Rain object whose searches stop for ever after some evaluations, and the event that tells so."""
    reached, count = threading.Event(), iter(range(10**6))

    async def scorer(prompt, text):
        if next(count) >= 8:
            reached.set()
            await asyncio.Event().wait()
        return 0.0

    return open_rain(scorer=scorer, max_simulations=4, extra_simulations=4, max_new_tokens=200), reached


def test_cancelling_agenerate_closes_its_sessions(stuck, engine):
    rain, reached = stuck

    async def run():
        task = asyncio.create_task(rain.agenerate(QUESTIONS))
        assert await asyncio.to_thread(reached.wait, 60)
        assert engine.active > 0
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    assert engine.idle.wait(60)


def test_a_cancelled_call_leaves_the_others_alone(rain):
    async def run():
        lost, kept = (asyncio.create_task(rain.agenerate(question)) for question in QUESTIONS[:2])
        lost.cancel()
        return await kept

    assert asyncio.run(run()).text == rain.generate(QUESTIONS[1]).text


@pytest.mark.parametrize("call", ["stream", "astream"])
def test_leaving_a_stream_early_closes_its_sessions(call, stuck, engine):
    rain, reached = stuck

    async def leave():
        async with aclosing(rain.astream("Why")) as pieces:
            await anext(pieces)
            assert await asyncio.to_thread(reached.wait, 60)
            assert not engine.idle.is_set()

    if call == "astream":
        asyncio.run(leave())
    else:
        for _ in rain.stream("Why"):
            assert reached.wait(60) and not engine.idle.is_set()
            break
    assert engine.idle.wait(60)


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("call", ["generate", "stream"])
def test_an_interrupt_from_the_keyboard_closes_the_sessions(call, open_rain, engine):
    count = iter(range(10**6))

    async def scorer(prompt, text):
        if next(count) == 8:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.Event().wait()
        return 0.0

    rain = open_rain(scorer=scorer)
    calls = {"generate": lambda: rain.generate("Why?"), "stream": lambda: list(rain.stream("Why?"))}
    with pytest.raises(KeyboardInterrupt):
        calls[call]()
    assert engine.idle.wait(60)
    assert rain.baseline("Why?").text, "the object is still usable"


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_an_interrupt_before_the_search_is_known_here_leaves_nothing_running(call, open_rain, engine, monkeypatch):
    rain, submit, started = open_rain(), LoopThread.submit, []

    def interrupted(self, coroutine):
        started.append(submit(self, coroutine))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LoopThread, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(getattr(rain, call)("Why?"))
    with pytest.raises(CancelledError):
        started[0].result(60)
    assert not engine.active
    assert rain.baseline("Why?").text, "the object is still usable"


def test_close_frees_everything_and_may_be_called_twice(engine, open_rain):
    with open_rain() as rain:
        rain.generate("Why?")
    assert engine.closed
    assert engine.active == 0
    rain.close()
    for call in (rain.generate, rain.baseline, lambda prompt: list(rain.stream(prompt)), lambda _: rain.preflight()):
        with pytest.raises(RainError, match="closed"):
            call("Why?")


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_close_ends_what_is_in_progress(call, stuck, engine):
    rain, reached = stuck
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: [*getattr(rain, call)("Why" if call == "stream" else QUESTIONS)])
        assert reached.wait(60)
        rain.close()
        with pytest.raises(RainError, match="closed"):
            asked.result(60)
    assert engine.active == 0


@pytest.mark.parametrize("call", ["run", "arun", "receive"])
def test_what_has_not_begun_when_its_object_is_closed_is_told_so(call):
    thread, asked = LoopThread(), threading.Event()

    async def hold():  # the loop, as a long pass does, until it is being closed
        while not thread._closing:
            asked.wait(0.01)
        with thread._lock:
            pass

    def submit(coroutine):
        future = LoopThread.submit(thread, coroutine)
        asked.set()
        return future

    calls = {
        "run": lambda: thread.run(asyncio.Event().wait()),
        "arun": lambda: asyncio.run(thread.arun(asyncio.Event().wait())),
        "receive": lambda: list(receive(thread, begin=None)),
    }
    thread.submit(hold())
    thread.submit = submit
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(calls[call])
        assert asked.wait(60)
        pool.submit(thread.close).result(60)
        with pytest.raises(RainError, match="closed"):
            asking.result(60)


def test_what_is_asked_while_an_object_is_being_closed_is_refused():
    thread, closing, asked = LoopThread(), threading.Event(), threading.Event()

    async def last():
        closing.set()
        await asyncio.to_thread(asked.wait, 60)

    with ThreadPoolExecutor() as pool:
        ending = pool.submit(thread.close, last())
        assert closing.wait(60)
        for call in (thread.run, lambda coroutine: asyncio.run(thread.arun(coroutine))):
            with pytest.raises(RainError, match="closed"):
                call(asyncio.sleep(0))
        asked.set()
        ending.result(60)


def test_a_scorer_cannot_wait_for_its_own_object(open_rain):
    async def scorer(prompt, text):
        return float(bool(rain.baseline(text).text))

    rain = open_rain(scorer=scorer)
    with pytest.raises(RainError, match="agenerate"):
        rain.generate("Why?")


def test_an_object_that_cannot_be_made_leaves_no_engine_and_no_thread(engine, open_rain, tmp_path):
    before = threading.active_count()
    with pytest.raises(RainError, match="' yes'"):
        open_rain(template=saved(tmp_path, WORDS))
    assert engine.closed
    assert threading.active_count() == before
