"""Servers whose replies are wrong, endless, huge or written for a terminal: one sentence, and nothing is believed."""

from __future__ import annotations

import asyncio
import re
import resource
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from engines.contract import generate, next_logprobs
from support.completions_server import engine_on, serving
from support.scripted_server import FLOOD

from rain.core.engine import SamplingParams
from rain.core.errors import RainError, WorkerFault
from rain.engines.remote.client import RetryPolicy, Unreachable
from rain.engines.toy import EOS, ToyTokenizer

pytestmark = pytest.mark.faults
TOKENIZER = ToyTokenizer()
PREFIX = tuple(TOKENIZER.encode("Human: Is the sea salt"))
IMPATIENT = RetryPolicy(reply=0.3, retry=0.3, pause=0.02)


def in_choices(change):
    """Return what changes each choice of a completion."""

    def tamper(reply):
        for choice in reply.get("choices", ()):
            change(choice)
        return reply

    return tamper


def first_id(token):
    return in_choices(lambda choice: choice["token_ids"].__setitem__(0, token))


def first_logprob(value):
    return in_choices(lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, value))


def first_top(name, value):
    return in_choices(lambda choice: choice["logprobs"]["top_logprobs"][0].__setitem__(name, value))


def longer(choice):
    choice["token_ids"] *= 20
    for values in choice["logprobs"].values():
        values *= 20


def none(choice):
    for values in (choice["token_ids"], *choice["logprobs"].values()):
        values.clear()


def cached(count):
    return lambda reply: {**reply, "usage": {"prompt_tokens_details": {"cached_tokens": count}}}


def twice(reply):
    return {**reply, "choices": reply["choices"] * 2} if "choices" in reply else reply


WRONG = {
    "an id above the vocabulary": (first_id(70000), "70000"),
    "the first id above the vocabulary": (first_id(EOS + 1), "257"),
    "a huge id": (first_id(10**12), str(10**12)),
    "a negative id": (first_id(-5), "-5"),
    "an id that is a truth value": (first_id(True), "token id"),
    "an id with a fraction": (first_id(3.5), "token id"),
    "a likely id above the vocabulary": (first_top("token_id:999", -1.0), "999"),
    "more tokens than requested": (in_choices(longer), "tokens where"),
    "no tokens": (in_choices(none), "0 of the"),
    "ids without log-probabilities": (
        in_choices(lambda choice: choice["token_ids"].append(1)),
        "log-probabilities for",
    ),
    "a positive log-probability": (first_logprob(5.0), "5.0"),
    "NaN": (first_logprob(float("nan")), "nan"),
    "minus infinity": (first_logprob(-float("inf")), "-inf"),
    "NaN among the likely": (first_top("token_id:1", float("nan")), "nan"),
    "a number too large for a float": (first_logprob(10**400), "known format"),
    "a log-probability that is a text": (first_logprob("\x1b[2J"), "known format"),
    "more cached than there was": (cached(10**6), "cached"),
    "fewer cached than none": (cached(-(10**9)), "cached"),
    "cached in words": (cached("many"), "known format"),
    "cached as a list": (cached([1]), "known format"),
    "twice as many completions": (twice, "completions"),
    "choices that are a number": (lambda reply: {**reply, "choices": 7}, "known format"),
    "choices that are texts": (lambda reply: {**reply, "choices": ["a"]}, "known format"),
    "usage that is a text": (lambda reply: {**reply, "usage": "none"}, "known format"),
    "logprobs that are a list": (in_choices(lambda choice: choice.update(logprobs=[1])), "known format"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_reply_with_something_impossible_is_an_error_that_names_the_server(name):
    tamper, message = WRONG[name]
    with serving() as server:
        engine = engine_on(server)
        server.tamper = tamper
        session = engine.session("s")
        with pytest.raises(RainError, match=message) as caught:
            asyncio.run(session.generate(PREFIX, SamplingParams(max_tokens=4, top_k=15)))
        assert re.match(rf"server {re.escape(server.url)} cannot be used: [^\n\x1b]*$", str(caught.value))
        assert session.usage.tokens_computed == 0
        if {"id", "likely"} & set(name.split()) == {"id"}:  # without log-probabilities, too
            with pytest.raises(RainError, match=message):
                generate(engine, PREFIX, max_tokens=4, logprobs=False)
        server.tamper = lambda reply: reply
        assert len(generate(engine, PREFIX, max_tokens=4)[0].tokens) == 4


@pytest.mark.parametrize("name", ["NaN", "a huge id", "more tokens than requested", "choices that are a number"])
def test_a_server_that_replies_so_is_found_out_at_the_start(name):
    tamper, message = WRONG[name]
    with serving() as server, pytest.raises(RainError, match=message):
        server.tamper = tamper
        engine_on(server)


CARDS = {
    "data that is a number": {"data": 7},
    "data that is a text": {"data": "toy"},
    "no data": {},
    "cards that are texts": {"data": ["toy"]},
    "a context in words": {"data": [{"id": "toy", "max_model_len": "long"}]},
    "a negative context": {"data": [{"id": "toy", "max_model_len": -5}]},
    "a context that is a list": {"data": [{"id": "toy", "max_model_len": [4096]}]},
    "an endless context": {"data": [{"id": "toy", "max_model_len": float("inf")}]},
    "names for a terminal": {"data": [{"id": "\x1b[2J\n"}, {"id": "\a"}]},
}


@pytest.mark.parametrize("name", CARDS)
def test_a_list_of_models_with_wrong_types_is_one_sentence(name):
    with serving() as server, pytest.raises(RainError) as caught:
        server.tamper = lambda reply: CARDS[name] if "data" in reply else reply
        engine_on(server)
    assert str(caught.value).isprintable() and server.url in str(caught.value)


def test_meta_data_that_are_a_list_leave_the_context_open():
    with serving() as server:
        server.tamper = lambda reply: {"data": [{"id": "toy", "meta": [1]}]} if "data" in reply else reply
        assert engine_on(server).context > 10**6


def test_replies_that_are_no_json_objects_are_asked_again_and_then_an_unreachable_server():
    bodies = [b"", b"[" * 100_000, b"[1]", b"{", b'{"choices": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"null", b'"x"']
    for body in bodies:
        with serving() as server:
            engine = engine_on(server, policy=IMPATIENT)
            server.tamper = lambda reply, body=body: body
            with pytest.raises(Unreachable, match=r"malformed reply.*tries\)") as caught:
                next_logprobs(engine, PREFIX, top=1)
            assert str(caught.value).isprintable()


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_server_that_hangs_or_drips_is_given_up_at_the_deadline_of_the_whole_reply_and_asked_again(fault):
    with serving(fault=lambda number: fault if number == 2 else "") as server:
        engine = engine_on(server, policy=RetryPolicy(reply=1.0, retry=10.0, pause=0.01))
        assert len(next_logprobs(engine, PREFIX, top=1)) == 1
        assert len(server.requests) == 4 and (fault == "hang" or 10 < server.sent < 100), "some of its bytes came"


def test_a_huge_reply_is_given_up_at_the_size_limit_and_not_asked_for_again():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(fault=lambda number: "flood" if number >= 2 else "") as server:
        engine = engine_on(server, policy=RetryPolicy(reply=60.0, retry=60.0, pause=0.01))
        with pytest.raises(RainError, match="more than 16 MiB"):
            next_logprobs(engine, PREFIX, top=1)
        assert len(server.requests) == 3 and server.sent < FLOOD / 4
        print(f"{server.sent:,} bytes of an endless reply were sent")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000, "KiB"


@pytest.mark.parametrize("status", ["400", "500"])
def test_what_a_server_says_cannot_steer_the_terminal(status):
    with serving() as server:
        engine = engine_on(server, policy=IMPATIENT)
        server.fault = lambda number: status
        server.tamper = lambda reply: b"\x1b]0;OWNED\a\x1b[2J no \xe2\x80\xae room\n\n# heading"
        with pytest.raises(RainError, match=f"HTTP {status}.*OWNED.* room") as caught:
            next_logprobs(engine, PREFIX, top=1)
    assert str(caught.value).isprintable()


def test_a_redirect_is_not_followed():
    with serving() as server, serving() as elsewhere:
        engine = engine_on(server)
        server.fault, server.location = lambda number: "307", f"{elsewhere.url}/completions"
        with pytest.raises(WorkerFault, match=f"{server.url} .*{elsewhere.url}/completions.*--base-url"):
            next_logprobs(engine, PREFIX, top=1)
        assert elsewhere.requests == []


def in_an_hour():
    return format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize("header", ["100", "2000.5", "a date"])
def test_a_long_retry_after_in_seconds_or_as_a_date_is_kept_up_to_the_patience(header):
    with serving() as server:
        engine = engine_on(server, policy=RetryPolicy(reply=5.0, retry=0.5, pause=0.01))
        server.requests.clear()
        server.fault, server.retry_after = lambda number: "429", in_an_hour() if header == "a date" else header
        with pytest.raises(Unreachable, match=r"\(2 tries\)"):
            next_logprobs(engine, PREFIX, top=1)


@pytest.mark.parametrize("header", ["soon", "nan", "-5", "Thu, 01 Jan 1970 00:00:00 GMT", "inf inf", "\u00b2"])
def test_a_retry_after_that_means_nothing_is_left_alone(header):
    with serving(fault=lambda number: "429" if number == 2 else "") as server:
        engine = engine_on(server)
        server.retry_after = header
        assert len(next_logprobs(engine, PREFIX, top=1)) == 1


def test_requests_that_fail_together_come_back_at_different_times(monkeypatch):
    pauses, sleep = [], asyncio.sleep

    async def noted(seconds):
        pauses.append(seconds)
        await sleep(0)

    async def many(engine):
        await asyncio.gather(*(engine.session(str(i)).next_logprobs(PREFIX, top=1) for i in range(8)))

    with serving(fault=lambda number: "503" if 2 <= number < 10 else "") as server:
        engine = engine_on(server)
        monkeypatch.setattr(asyncio, "sleep", noted)
        asyncio.run(many(engine))
    waits = [pause for pause in pauses if pause]
    assert len(set(waits)) == len(waits) >= 8
