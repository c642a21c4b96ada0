"""Who is let in, who waits, who leaves, and how a server ends; against real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from support.toy_server import BEARER, KEY, ask, asked, code, events, served

from rain.cli import main
from rain.core.config import Budget, RainConfig
from rain.core.errors import RainError
from rain.generation import Answer, Piece, PreparedPrompt
from rain.library import Rain
from rain.serve import answers
from rain.serve.app import make_app
from rain.serve.budgets import BudgetRules
from rain.serve.config import ServeConfig
from rain.serve.gate import Gate
from rain.serve.keys import Keys
from rain.serve.models import Served
from rain.serve.process import _load
from rain.serve.replies import AnswerJob, rewound
from rain.serve.schema import StreamOptions
from rain.serve.service import Service
from rain.serve.trace import Trace


def until(condition, limit=5.0):
    """Wait until a condition holds; return how long that took (seconds)."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit
        time.sleep(0.01)
    return time.monotonic() - started


def silent_stream(stack, server, **headers):
    """Begin a stream that says nothing until it is left; return its response."""
    client = stack.enter_context(server.client(headers=headers))
    request = client.stream("POST", "/v1/chat/completions", json=asked("SILENT", stream=True))
    return stack.enter_context(request)


def test_only_those_with_a_key_are_let_in_and_it_is_told_whose_it_was(guarded_server):
    with guarded_server.client() as client:
        for header in ({}, {"authorization": KEY}, {"authorization": "Bearer nobody-s-key-at-all"}):
            for path in ("/v1/models", "/metrics", "/version", "/v1/nothing"):
                assert code(client.get(path, headers=header)) == (401, "invalid_api_key")
        assert client.get("/health").status_code == client.get("/").status_code == 200
        for key, name in ((KEY, "anna"), ("second-key-of-ben", "ben")):
            headers = {"authorization": f"Bearer {key}", "x-request-id": f"of-{name}"}
            assert client.get("/v1/models", headers=headers).status_code == 200
            assert json.loads(guarded_server.wait_for_log(f"of-{name}"))["key"] == name
    assert not any(KEY in line for line in guarded_server.log)


def test_a_key_is_asked_for_before_the_body_is_read(guarded_server):
    host, port = guarded_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_other_hosts_and_origins_are_refused(server, client, guarded_server, anna):
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", "[::2]"):
        for path in ("/v1/models", "/health"):
            assert code(client.get(path, headers={"host": host})) == (403, "forbidden_host")
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:80", "[::1]", "box.example:80"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        assert code(client.get("/v1/models", headers={"origin": origin})) == (403, "forbidden_origin")
        assert client.options("/v1/models", headers={"origin": origin}).status_code == 403
    own = client.get("/v1/models", headers={"origin": server.url})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
    chat = {"origin": "https://chat.example"}
    before = {**chat, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with guarded_server.client() as nobody:
        allowed = nobody.options("/v1/chat/completions", headers=before)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-headers"] == "authorization"
    assert anna.get("/v1/models", headers=chat).headers["access-control-allow-origin"] == chat["origin"]


def test_a_strict_server_refuses_what_has_no_effect(guarded_server, anna):
    [choice] = ask(anna, "Hi", {"x-request-id": "texts"}, temperature=1).json()["choices"]
    line = json.loads(guarded_server.wait_for_log("texts"))
    assert (line["prompt"], line["answers"]) == ("Hi", [choice["message"]["content"]]), "with --log-text"
    refused = ask(anna, "Hi", temperature=0.7)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "temperature"


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(guarded_server, anna):
    with ExitStack() as stack:
        for _ in range(3):
            assert silent_stream(stack, guarded_server, **BEARER).status_code == 200
        metrics = [guarded_server.metric(f"rain_{name}", **BEARER) for name in ("running", "waiting")]
        assert metrics == [1, 2]
        refused = anna.post("/v1/chat/completions", content=b"not JSON", headers={"content-type": "application/json"})
        assert code(refused) == (429, "rate_limit_exceeded"), "before the body is looked at"
        assert 1 <= int(refused.headers["retry-after"]) <= 120 and refused.headers["x-should-retry"] == "true"
        assert refused.elapsed.total_seconds() < 0.05
        assert anna.get("/health").status_code == 200
    until(lambda: guarded_server.metric("rain_running", **BEARER) == 0)
    assert ask(anna, "Hi", n=3).status_code == 200
    never = ask(anna, "Hi", n=4)
    assert code(never) == (400, "invalid_value") and never.headers["x-should-retry"] == "false"


def test_a_silent_stream_says_that_it_is_alive(server):
    with ExitStack() as stack:
        lines = silent_stream(stack, server).iter_lines()
        times = [time.monotonic() for line, _ in zip(lines, range(6), strict=False) if line == ": keep-alive"]
    assert len(times) == 4, "after the first chunk and its empty line"
    assert all(0.15 < later - earlier < 0.4 for earlier, later in zip(times, times[1:], strict=False))


@pytest.fixture
def service():
    """What a server's requests share, without a model."""
    return Service(ServeConfig(), "", print)


@pytest.fixture
def job():
    """A request for a stream, of which a comment is expected after 0.2 s."""
    prompt = PreparedPrompt("1", "?", "?", (1,), RainConfig(), 0)
    return AnswerJob({}, True, Served(), prompt, None, 1, Budget(), 0, None, 0.2, StreamOptions(), ())


def test_commits_without_text_are_silence(service, job):
    class Held(Rain):
        async def aevents(self, prompt, **options):
            for _ in range(8):
                await asyncio.sleep(0.1)
                yield Piece("", None, 1)
            yield Answer("", "stop")

    async def said():
        return [item async for item in service.events(job)]

    with Held(engine="toy") as service.rain:
        assert asyncio.run(said()).count(None) >= 2


def test_a_client_that_does_not_read_gets_nothing_more(service, job, monkeypatch):
    monkeypatch.setattr(answers, "SLOWEST_READER", 0.05)
    trace, sent = Trace("1"), []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    with service.admission.admit(1):
        asyncio.run(answers.AnswerResponse(service, job, trace, stream=True)({}, receive, send))
    assert sent == ["http.response.start", "http.response.body"] and trace.status == answers.GONE


def test_a_stream_that_is_read_to_its_end_is_an_answer(server, client):
    gone = server.metric("rain_disconnects_total")
    assert events(ask(client, "Why?", {"x-request-id": "whole-stream"}, stream=True).text)
    assert json.loads(server.wait_for_log("whole-stream"))["status"] == 200
    assert server.metric("rain_disconnects_total") == gone


def test_choices_in_turn_share_their_clients_patience(anna):
    reply = ask(anna, "SLOW", {"x-stainless-read-timeout": "1.0"}, n=2)
    assert reply.status_code == 200 and reply.elapsed.total_seconds() < 1.0
    assert [choice["rain"]["finish"] for choice in reply.json()["choices"]] == ["budget", "budget"]
    assert all(choice["rain"]["simulations"] for choice in reply.json()["choices"])


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_during_silence_ends_its_search(stream, server):
    gone, passes = server.metric("rain_disconnects_total"), server.metric("rain_engine_passes")
    if stream:
        with ExitStack() as stack:
            next(silent_stream(stack, server).iter_lines())
    else:
        with server.client(timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
            ask(client, "SILENT")
    assert until(lambda: server.metric("rain_running") == 0) < 1
    assert server.metric("rain_disconnects_total") == gone + 1
    stopped = server.metric("rain_engine_passes")
    time.sleep(0.2)
    assert server.metric("rain_engine_passes") == stopped > passes
    assert server.metric("rain_embedding_seconds") == 0, "the toy encoder does not count them"


def test_two_hundred_impatient_clients_leave_nothing_behind(server, client):
    def impatient(number):
        with server.client(timeout=0.5) as client:
            try:
                return ask(client, "SILENT" if number % 4 else "What?").status_code
            except httpx.TimeoutException:
                return 0

    with ThreadPoolExecutor(100) as pool:  # the server has 32 places
        statuses = list(pool.map(impatient, range(200)))
    assert {0, 429} <= set(statuses) <= {0, 200, 429}
    assert until(lambda: server.metric("rain_running") + server.metric("rain_waiting") == 0) < 2
    assert ask(client).status_code == 200


def test_an_answer_is_the_same_whatever_else_is_in_flight(client):
    def answer(question):
        return ask(client, question, seed=3).json()["choices"][0]["message"]

    alone = answer("What now?")
    with ThreadPoolExecutor(16) as pool:
        crowded = list(pool.map(answer, (f"Question {i}?" if i % 2 else "What now?" for i in range(32))))
    assert crowded[::2] == [alone] * 16


def test_a_failure_in_the_middle_of_a_stream_is_an_event_and_the_server_goes_on(server, client):
    for seed in range(8):  # some answers end before the model breaks
        answer = ask(client, "BREAK", stream=True, seed=seed)
        assert answer.status_code == 200
        found = events(answer.text)
        if "error" in found[-1] and len(found) > 2:
            break
    assert found[-1]["error"]["type"] == "server_error" and "LookupError" in found[-1]["error"]["message"]
    assert "BREAK" not in answer.text
    failed = ask(client, "BREAK", seed=seed)
    assert code(failed) == (500, "engine_error") and failed.headers["x-should-retry"] == "false"
    assert ask(client).status_code == 200
    assert server.metric("rain_running") == 0
    assert not any("no continuation" in line for line in server.log), "its message quotes the prompt"


def test_health_answers_quickly_while_the_model_computes(client):
    with ThreadPoolExecutor(8) as pool:
        busy, times = [pool.submit(ask, client, n=4) for _ in range(4)], []
        while not all(answer.done() for answer in busy):
            times.append(client.get("/health").elapsed.total_seconds())
    assert {answer.result().status_code for answer in busy} == {200}
    assert len(times) > 5 and sorted(times)[len(times) * 9 // 10] < 0.1, times


def test_a_signal_lets_answers_finish_and_refuses_new_ones():
    with served("--drain", "20") as server, ThreadPoolExecutor(2) as pool, server.client() as client:
        slow = pool.submit(ask, client, "SLOW")
        until(lambda: server.metric("rain_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/health").status_code == 503)
        assert code(ask(client, "Hi")) == (503, "unavailable")
        assert slow.result().json()["choices"][0]["finish_reason"] == "stop"
        assert server.process.wait(10) == 0


def test_answers_that_outlast_the_drain_get_an_error_and_a_second_signal_ends_at_once():
    with served("--drain", "0.2") as server, ExitStack() as stack:
        response = silent_stream(stack, server)
        assert server.stop() == 0
        assert events(response.read().decode())[-1]["error"]["code"] == "unavailable"
    with served("--drain", "60") as server, ExitStack() as stack:
        silent_stream(stack, server)
        server.process.send_signal(signal.SIGTERM)
        server.process.stdout.readline()
        assert server.stop() == 128 + signal.SIGTERM


def test_a_broken_device_ends_the_server_with_a_sentence():
    with served() as server, server.client() as client:
        assert ask(client, "DEVICE").status_code == 503
        assert server.process.wait(10) == 1
        server.wait_for_log("rain: error: the device has failed")


def test_health_says_that_a_device_has_failed(service):
    ended = []
    service.ending = lambda: ended.append(True)
    there = httpx.ASGITransport(Gate(make_app(service), service))

    async def health():
        async with httpx.AsyncClient(transport=there, base_url="http://127.0.0.1") as client:
            return await client.get("/health")

    with Rain(engine="toy") as service.rain:
        assert asyncio.run(health()).status_code == 200
        assert service.failure(ValueError("of one request")).status == 500
        assert (asyncio.run(health()).status_code, ended) == (200, [])
        service.failure(RuntimeError("CUDA error: an illegal memory access was encountered"))
        assert code(asyncio.run(health())) == (503, "unavailable")
        assert ended == [True]


def test_a_key_may_have_any_letters(tmp_path):
    (tmp_path / "keys").write_text("anna schl\u00fcssel-f\u00fcr-anna")
    header = "Bearer schl\u00fcssel-f\u00fcr-anna".encode().decode("latin-1")  # as servers decode headers
    assert Keys.from_file(str(tmp_path / "keys")).name(header) == "anna"


def test_the_fingerprint_tells_default_budgets_apart():
    rules = [BudgetRules.from_texts("", most) for most in ("", "simulations=7", "simulations=8")]
    assert len({_load({"engine": "toy"}, rule)[1] for rule in rules}) == 3


def test_tokens_that_were_cached_before_are_not_taken_for_computed_ones():
    cost = {"tokens_computed": 60, "evaluation": {"tokens_computed": 11}}
    answer = Answer("", "stop", cost=cost, tokens=(1,) * 8, prompt_tokens=45)
    assert rewound(answer, shared=24) == 60 - 11 - 21 - 8


def test_the_server_listens_while_the_model_is_loading_and_ends_at_once_without_work(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "loader.py").write_text(f"open({str(gate)!r}).read()\ndef f(p, c, o): return [0.0]\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with served("--port", port, "--evaluator", "python:loader:f", wait=False, path=tmp_path) as server:
        until(lambda: _status(url) == 503, 20)
        assert code(httpx.post(f"{url}/v1/chat/completions", json=asked("Hi"))) == (503, "unavailable")
        gate.write_text("go")
        server.wait_until_ready()
        assert _status(url) == 200
        started = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - started < 2


def _status(url):
    try:
        return httpx.get(f"{url}/health").status_code
    except httpx.TransportError:
        return 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--host 0.0.0.0", "--api-key-file"),
        ("--api-key-file nowhere.txt", "nowhere.txt"),
        ("--budget seconds=9 --max-budget seconds=5", "--max-budget"),
        ("--budget much", "--budget"),
        ("--keep-alive 0", "--keep-alive"),
        ("--cors *", "--cors"),
        ("--host not.a.host.invalid", "--host"),
        ("--evaluator nothing", "--evaluator"),
    ],
)
def test_wrong_settings_end_with_a_sentence(flags, words, capsys):
    assert main(["serve", "--engine", "toy", "--port", "0", *flags.split()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("rain: error: ") and words in line


@pytest.mark.parametrize("line", ["anna", "anna short", "anna sha256:12", f"anna {KEY}\nanna {KEY}", "", "a b c d e f"])
def test_a_key_file_is_refused_by_its_line_without_telling_the_key(line, tmp_path):
    (tmp_path / "keys").write_text(line)
    with pytest.raises(RainError) as error:
        Keys.from_file(str(tmp_path / "keys"))
    assert "line" in str(error.value) and KEY not in str(error.value) and "short" not in str(error.value)


def test_each_evaluator_of_a_server_can_be_chosen(tmp_path):
    (tmp_path / "liking.py").write_text("def f(p, c, o): return [2 * ('e' in c[0]) - 1.0]\n")
    with served("--evaluator", "labels", "python:liking:f", path=tmp_path) as server, server.client() as client:

        def value(**rain):
            reply = ask(client, rain=rain)
            return reply.json()["rain"]["value"] if reply.status_code == 200 else code(reply)

        alone = [value(evaluator=name) for name in ("labels", "python:liking:f")]
        both = [value(), value(evaluator="labels+python:liking:f")]
        assert both[0] == both[1] and len({*alone, both[0]}) > 1
        assert value(evaluator="readout:harmless") == (400, "invalid_value")
