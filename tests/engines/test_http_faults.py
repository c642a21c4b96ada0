"""Completions servers that fail, hang, restart and disappear cost time, and no answer."""

from __future__ import annotations

import asyncio

import pytest
from support.completions_server import Ways, engine_on, serving

from rain.core.engine import SamplingParams
from rain.core.errors import WorkerFault
from rain.engines.remote.client import RetryPolicy, Unreachable
from rain.engines.toy import ToyTokenizer

pytestmark = pytest.mark.faults
PREFIX = tuple(ToyTokenizer().encode("Human: Is the sea salt"))
IMPATIENT = RetryPolicy(reply=1.0, retry=0.1, pause=0.02)
HALF_OPEN = RetryPolicy(reply=2.0, retry=0.2, pause=0.02, again=0.1)


async def ask(session):
    return await session.next_logprobs(PREFIX, top=3)


async def test_a_server_that_fails_a_fifth_of_requests_costs_time_but_changes_no_answer():
    def fault(number):
        return ("500", "cut", "429", "503")[number // 5 % 4] if number % 5 == 3 else ""

    async def work(engine):
        session = engine.session("s")
        params = [SamplingParams(n=4, max_tokens=5, top_k=15, greedy_first=True, seed=i) for i in range(20)]
        jobs = [session.generate(PREFIX[i:], each) for i, each in enumerate(params)]
        return await asyncio.gather(*jobs, *(session.next_logprobs(PREFIX[i:], top=3) for i in range(20)))

    with serving() as sound, serving(fault=fault) as broken:
        assert await work(engine_on(broken)) == await work(engine_on(sound))
        assert len(broken.requests) >= 60 / 0.8 - 1, "a fifth was asked again"


async def test_a_request_waits_for_a_server_that_restarts():
    with serving() as before:
        session, port = engine_on(before).session("s"), before.port
        first = await ask(session)
    waiting = asyncio.create_task(ask(session))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    with serving(port=port):
        assert await waiting == first


async def test_a_server_that_never_answers_is_an_error_that_says_where_and_how_often():
    with serving(fault=lambda number: "503" if number > 1 else "") as server:
        session = engine_on(server, policy=IMPATIENT).session("s")
        with pytest.raises(Unreachable, match=rf"{server.url} .*HTTP 503 .*\(\d tries\)"):
            await session.generate(PREFIX, SamplingParams(max_tokens=3))


async def test_a_lost_server_leaves_its_searches_to_the_others():
    with serving() as staying, serving() as leaving:
        engine = engine_on(staying, leaving, policy=IMPATIENT)
        sessions = [engine.session(str(i)) for i in range(6)]
        leaving.close()
        answers = [await ask(session) for session in sessions]
        assert all(answer == answers[0] for answer in answers)
        assert list(engine.pool.load().values()) == [6]
        await engine.cache_prefix(PREFIX)
        staying.close()
        with pytest.raises(WorkerFault, match="does not answer"):
            await ask(sessions[0])
        with pytest.raises(WorkerFault, match=staying.url):
            await ask(engine.session("late"))


async def test_a_lost_server_is_asked_again_and_serves_new_searches_when_it_is_back():
    with serving() as staying, serving() as leaving:
        engine, port = engine_on(staying, leaving, policy=HALF_OPEN), leaving.port
        leaving.close()
        sessions = [engine.session(str(i)) for i in range(4)]
        await asyncio.gather(*map(ask, sessions))
        assert [server.lost for server in engine.pool.servers] == [False, True]
        with serving(port=port) as back:
            while any(server.lost for server in engine.pool.servers):
                await ask(sessions[0])
            later = [engine.session(f"later {i}") for i in range(4)]
            await asyncio.gather(*map(ask, later))
            assert list(engine.pool.load().values()) == [4, 4]
            assert len(back.requests) >= 4
        await engine.close()


async def test_when_all_servers_are_away_for_longer_than_the_patience_nothing_is_lost_but_time():
    """What a pool does with a WorkerFault, in small: ask again; no request fails in another way."""
    faults, prompts = [], 200

    async def answer(engine, number):
        while True:
            session = engine.session(str(number))
            try:
                return await session.next_logprobs((*PREFIX, number), top=1)
            except WorkerFault as fault:
                faults.append(str(fault))
            finally:
                await session.close()

    with serving(fault=lambda number: "503" if number > 20 and len(faults) < prompts else "") as server:
        engine = engine_on(server, policy=HALF_OPEN)
        answers = await asyncio.gather(*(answer(engine, number) for number in range(prompts)))
    assert len(answers) == prompts and len(faults) >= prompts
    assert any("no server answers" in fault for fault in faults), "requests that came later waited too"
    assert engine.pool.places == {}


async def test_a_server_that_comes_back_with_another_model_stays_lost():
    with serving() as staying, serving() as leaving:
        engine, port = engine_on(staying, leaving, policy=HALF_OPEN), leaving.port
        leaving.close()
        session = engine.session("0")
        await engine.cache_prefix(PREFIX)
        with serving(Ways(shift=1), port=port) as other:
            while not other.requests:
                await ask(session)
            await engine.close()
            assert [server.lost for server in engine.pool.servers] == [False, True]


async def test_a_session_that_is_opened_and_never_used_takes_no_place():
    with serving() as server:
        engine = engine_on(server)
        sessions = [engine.session(str(i)) for i in range(9)]
        assert list(engine.pool.load().values()) == [0] and engine.pool.places == {}
        await sessions[0].close()
        assert list(engine.pool.load().values()) == [0]
