"""The engine for completions servers, against a small server that speaks their protocol, faults included."""

from __future__ import annotations

import asyncio
import math

import pytest
from engines.contract import EngineContract, Subject, generate, next_logprobs
from support.completions_server import Ways, engine_on, serving
from support.stand_ins import run_search, search

from rain.core.config import RainConfig
from rain.core.engine import SamplingParams
from rain.core.errors import RainError
from rain.core.stop import Stop
from rain.engines.remote.client import RetryPolicy, ServerClient
from rain.engines.remote.engine import CompletionRequest, drawn_logprob
from rain.engines.remote.http import ServerPool, open_http
from rain.engines.remote.probe import probe
from rain.engines.remote.protocol import ProtocolError, read_reply
from rain.engines.toy import EOS, ToyEngine, ToyTokenizer, log_distribution

TOKENIZER = ToyTokenizer()
PREFIX = tuple(TOKENIZER.encode("Human: Is the sea salt"))
WAYS = {
    "vllm": Ways(),
    "prefixed": Ways(ids="prefixed"),
    "one seed, one text": Ways(one_seed=True),
}


class TestHttpEngine(EngineContract):
    @pytest.fixture(params=WAYS)
    def subject(self, request):
        with serving(WAYS[request.param]) as server:
            patient = engine_on(server, policy=RetryPolicy())  # a busy machine takes a while for hundreds of requests
            yield Subject(patient, TOKENIZER, context=256)


def test_greedy_text_and_logprobs_are_those_of_the_model_behind_the_server():
    options = {"max_tokens": 40, "temperature": 2.0, "top_k": 15, "greedy_first": True}
    [expected] = generate(ToyEngine(), PREFIX, **options)
    with serving() as server:
        [answer] = generate(engine_on(server), PREFIX, **options)
    assert answer.tokens == expected.tokens
    assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-9)


def test_candidates_take_one_greedy_request_and_one_for_all_others():
    with serving() as server:
        session = engine_on(server).session("s")
        server.requests.clear()
        params = SamplingParams(n=10, max_tokens=10, top_k=15, temperature=2.0, greedy_first=True, seed=4)
        asyncio.run(session.generate(PREFIX, params))
        greedy, drawn = sorted(server.requests, key=lambda request: request["n"])
    assert (greedy["n"], greedy["temperature"], greedy["logprobs"]) == (1, 0.0, 15)
    assert (drawn["n"], drawn["temperature"], drawn["top_k"], drawn["logprobs"]) == (9, 2.0, 15, 15)
    assert 0 <= drawn["seed"] < 2**31 - 10 and session.usage.requests == 1


@pytest.mark.parametrize(("ways", "asked"), [(Ways(), None), (Ways(ids="prefixed"), 1), (Ways(ids="llamacpp"), 1)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_needs_no_logprobs_requests_none_unless_the_ids_come_with_them(ways, asked, temperature):
    options = {"n": 3, "max_tokens": 5, "temperature": temperature, "greedy_first": True, "seed": 3}
    with serving(ways) as server:
        engine = engine_on(server)
        expected = generate(engine, PREFIX, **options)
        server.requests.clear()
        answers = generate(engine, PREFIX, **options, logprobs=False)
        assert [request["logprobs"] for request in server.requests] == [asked, asked]
    assert answers == [answer._replace(logprobs=()) for answer in expected]


def test_a_search_needs_no_logprobs_of_its_rollouts():
    with serving() as server:
        session = engine_on(server).session("s")
        server.requests.clear()
        config = RainConfig(max_simulations=3, extra_simulations=1, max_new_tokens=4, top_k=15)
        run_search(search(session, lambda response: 0.0, config), 1)
        assert {request["logprobs"] for request in server.requests if request["top_k"] < 0} >= {None}
        assert all(request["logprobs"] for request in server.requests if request["top_k"] > 0)


def test_logprobs_after_temperature_and_top_k_come_out_of_the_raw_ones_by_hand():
    top = {1: math.log(0.4), 2: math.log(0.2), 3: math.log(0.1), 4: math.log(0.01)}
    assert drawn_logprob(top, 2, 1.0, 3) == pytest.approx(math.log(2 / 7))
    assert drawn_logprob(top, 1, 0.5, 2) == pytest.approx(math.log(0.16 / (0.16 + 0.04)))
    assert drawn_logprob(top, 3, 1.0, 0) == math.log(0.1)
    tied = {1: math.log(0.4), 2: math.log(0.2), 3: math.log(0.2)}
    assert drawn_logprob(tied, 3, 1.0, 2) == pytest.approx(math.log(0.25)), "a tie at the k-th place is in"
    for temperature, top_k in ((1.0, 5), (2.0, 0)):
        with pytest.raises(RainError, match="--max-logprobs"):
            drawn_logprob(top, 1, temperature, top_k)


def test_the_first_rule_to_be_met_ends_a_text_whatever_the_server_sends_after_it():
    tokens = list(b"one. two. three")
    for stop, end in (
        (Stop(), None),
        (Stop(frozenset(b"t"), ("o. ",)), len("one. t")),
        (Stop(strings=("o. t", "ree")), len("one. two. t")),
    ):
        assert stop.position(tokens, TOKENIZER.decode) == end


def test_an_id_that_was_not_returned_gets_the_smallest_logprob_that_was():
    row = log_distribution(PREFIX)
    ranked = sorted(range(len(row)), key=lambda token: -row[token])
    with serving() as server:
        known = next_logprobs(engine_on(server), PREFIX, ids=(ranked[3], ranked[200]))
    assert known == {ranked[3]: pytest.approx(row[ranked[3]]), ranked[200]: pytest.approx(row[ranked[19]])}


def test_usage_counts_what_the_server_says_was_cached():
    with serving() as server:
        session = engine_on(server).session("s")
        for _ in range(2):
            asyncio.run(session.generate(PREFIX + PREFIX, SamplingParams(n=3, max_tokens=5, top_k=15)))
    assert (session.usage.requests, session.usage.forward_passes, session.usage.tokens_reused) == (2, 10, 32)
    assert session.usage.tokens_computed == 2 * 44 - 32 + 2 * 3 * 4


def counts(servers):
    return [len(server.requests) for server in servers]


def test_a_search_stays_on_one_server_and_searches_are_spread_evenly():
    with serving() as first, serving() as second, serving() as third:
        servers = (first, second, third)
        engine = engine_on(*servers)
        sessions = [engine.session(f"hh-{i}") for i in range(12)]
        assert list(engine.pool.load().values()) == [0, 0, 0], "a session counts from its first request on"
        for session in sessions:
            asyncio.run(session.next_logprobs(PREFIX, top=1))
        assert list(engine.pool.load().values()) == [4, 4, 4]
        for server in servers:
            server.requests.clear()
        for session in (sessions[0], engine.session("hh-0/judge"), engine.session("hh-0")):
            sessions.append(session)
            asyncio.run(session.next_logprobs(PREFIX, top=1))
        assert sorted(counts(servers)) == [0, 0, 3]
        asyncio.run(engine.cache_prefix(PREFIX))
        assert sorted(counts(servers)) == [1, 1, 4]
        for session in (*sessions, *sessions):
            asyncio.run(session.close())
        assert list(engine.pool.load().values()) == [0, 0, 0], "closing twice counts once"
        assert engine.pool.places == {}, "what is closed is forgotten"


def test_the_choice_of_a_server_is_the_same_in_the_next_run():
    servers = [ServerClient(f"http://127.0.0.{i}") for i in range(1, 5)]
    chosen = [ServerPool(servers).place(f"hh-{i}").url for i in range(40)]
    assert chosen == [ServerPool(servers[::-1]).place(f"hh-{i}").url for i in range(40)]
    assert min(chosen.count(server.url) for server in servers) >= 4


def test_a_request_that_the_server_refuses_is_not_tried_again():
    with serving(Ways(limit=30)) as server:
        engine = engine_on(server)
        server.requests.clear()
        with pytest.raises(RainError, match="HTTP 400"):
            generate(engine, PREFIX, n=2, max_tokens=2, top_k=40)
        assert len(server.requests) == 1


UNFIT = {
    "texts": (Ways(ids="texts"), "token ids"),
    "no logprobs": (Ways(logprobs=False), "no log-probabilities"),
    "refuses": (Ways(limit=5), "HTTP 400.*allowed: 5"),
    "cuts": (Ways(limit=5, over="cut"), r"\b5 log-probabilities.*\b15\b"),
    "another tokenizer": (Ways(shift=1), "--modelname"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_server_that_lacks_something_is_found_out_at_the_start_in_one_sentence(name):
    ways, message = UNFIT[name]
    with serving(ways) as server, pytest.raises(RainError, match=message) as caught:
        engine_on(server)
    assert "\n" not in str(caught.value) and server.url in str(caught.value)


def test_a_server_that_is_not_there_is_found_out_at_the_start():
    with serving() as server:
        url = server.url
    with pytest.raises(RainError, match=f"{url} .*connection failed"):
        asyncio.run(probe(ServerClient(url), TOKENIZER, "toy", RetryPolicy(1.0, 0.1, 0.02)))


@pytest.mark.parametrize("strings", [(), ("e", "a")])
def test_llama_cpp_gives_ids_another_way_and_is_not_told_to_ignore_the_end_of_sequence(strings):
    stop = Stop(frozenset({EOS}), strings)
    options = {"n": 3, "max_tokens": 6, "top_k": 15, "greedy_first": True, "stop": stop, "seed": 2}
    with serving(Ways(ids="llamacpp")) as server:
        answers = generate(engine_on(server), PREFIX, **options)
        assert not any("ignore_eos" in request for request in server.requests)
    with serving() as server:
        assert generate(engine_on(server), PREFIX, **options) == answers


def test_a_reply_that_lacks_tokens_is_refused():
    item = {"id": 7, "logprob": -1.0, "top_logprobs": []}
    reply = {"choices": [{"finish_reason": "length", "logprobs": {"content": [item]}}]}
    request = CompletionRequest(PREFIX, SamplingParams(3), 1)
    assert read_reply({**reply, "usage": {"completion_tokens": 1}}, request, 257).samples[0].tokens == (7,)
    with pytest.raises(ProtocolError, match="1 of the 3 tokens"):
        read_reply({**reply, "usage": {"completion_tokens": 3}}, request, 257)


@pytest.mark.parametrize("ways", [Ways(one_seed=True), Ways(single=True)])
def test_where_one_request_cannot_give_several_texts_each_gets_its_own_request(ways):
    options = {"n": 4, "max_tokens": 6, "top_k": 15, "greedy_first": True, "seed": 2}
    with serving() as usual, serving(ways) as unusual:
        expected, engine = generate(engine_on(usual), PREFIX, **options), engine_on(unusual)
        unusual.requests.clear()
        assert generate(engine, PREFIX, **options) == expected
        assert [request["n"] for request in unusual.requests] == [1, 1, 1, 1]


def test_an_address_that_is_not_a_url_is_refused_by_its_flag():
    with pytest.raises(RainError, match="--base-url"):
        open_http("127.0.0.1:8000", TOKENIZER, "toy")
