"""Completions servers that fail, hang, restart and disappear cost time, and no answer."""

from __future__ import annotations

import asyncio

import pytest
from support.completions_server import fleet_of, serving

from rain.core.errors import RainError
from rain.engines.remote.client import Patience, Unreachable
from rain.engines.toy import ToyTokenizer

pytestmark = pytest.mark.faults
PREFIX = tuple(ToyTokenizer().encode("Human: Is the sea salt"))


def test_a_server_that_fails_a_fifth_of_requests_costs_time_but_changes_no_answer():
    def fault(number):
        return ("500", "cut", "429", "503")[number // 5 % 4] if number % 5 == 3 else ""

    async def work(engine):
        jobs = [engine.generate(PREFIX[i:], n=4, max_tokens=5, top_k=15, greedy_first=True, seed=i) for i in range(20)]
        return await asyncio.gather(*jobs, *(engine.next_logprobs(PREFIX[i:], top=3) for i in range(20)))

    with serving() as sound, serving(fault=fault) as broken:
        expected = asyncio.run(work(fleet_of(sound)))
        assert asyncio.run(work(fleet_of(broken))) == expected
        assert len(broken.requests) >= 60 / 0.8 - 1, "a fifth was asked again"


def test_a_server_that_hangs_is_given_up_after_the_timeout_and_asked_again():
    patience = Patience(reply=0.3, retry=10.0, pause=0.01)
    with serving(fault=lambda number: "hang" if number == 2 else "") as server:
        engine = fleet_of(server, patience=patience)
        answer = asyncio.run(engine.next_logprobs(PREFIX, top=1))
        assert len(server.requests) == 4 and len(answer) == 1


def test_a_server_that_is_started_anew_goes_on_answering():
    with serving() as before:
        engine, port = fleet_of(before), before.port
        first = asyncio.run(engine.next_logprobs(PREFIX, top=5))

    async def while_it_is_away():
        waiting = asyncio.create_task(engine.next_logprobs(PREFIX, top=5))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        with serving(port=port):
            return await waiting

    assert asyncio.run(while_it_is_away()) == first


def test_a_server_that_never_answers_is_an_error_that_says_where_and_how_often():
    impatient = Patience(reply=1.0, retry=0.1, pause=0.02)
    with serving(fault=lambda number: "503" if number > 1 else "") as server:
        engine = fleet_of(server, patience=impatient)
        with pytest.raises(Unreachable, match=rf"{server.url} does not answer: HTTP 503 .*\(\d tries\)"):
            asyncio.run(engine.generate(PREFIX, max_tokens=3))


def test_a_lost_server_leaves_its_searches_to_the_others():
    impatient = Patience(reply=1.0, retry=0.1, pause=0.02)
    with serving() as staying, serving() as leaving:
        engine = fleet_of(staying, leaving, patience=impatient)
        sessions = [engine.session(str(i)) for i in range(6)]
        leaving.close()
        answers = [asyncio.run(session.next_logprobs(PREFIX, top=3)) for session in sessions]
        assert all(answer == answers[0] for answer in answers)
        assert [server.open for server in engine.fleet.servers] == [6, 0]
        asyncio.run(engine.pin(PREFIX))
        staying.close()
        with pytest.raises(RainError, match="does not answer"):
            asyncio.run(sessions[0].next_logprobs(PREFIX, top=3))
        with pytest.raises(RainError, match="no server answers any more"):
            engine.session("late")
