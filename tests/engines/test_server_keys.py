"""Which key a completions server gets, and that no message has one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from support.completions_server import engine_on, serving

from rain.core.errors import RainError
from rain.engines.remote.client import ServerClient
from rain.engines.remote.engine import greedy_request
from rain.engines.remote.probe import probe
from rain.engines.toy import ToyTokenizer
from rain.evaluators.model import ModelSpec, open_model
from rain.evaluators.templates import Template
from rain.judges.base import JudgeConfig, Query
from rain.judges.hf_judge import HFJudge

TOKENIZER = ToyTokenizer()
PREFIX = tuple(TOKENIZER.encode("Human: Is the sea salt"))
OTHERS = {"OPENAI_ORG_ID": "org", "OPENAI_PROJECT_ID": "proj", "OPENAI_ADMIN_KEY": "sk-adm"}
KEYS = {"OPENAI_API_KEY": "sk-openai", **OTHERS}


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "Bearer none"), ({"RAIN_API_KEY": "own"}, "Bearer own"), ({"OPENAI_BASE_URL": "URL"}, "Bearer sk-openai")],
    ids=["no key of its own", "its own key", "OPENAI_BASE_URL names it"],
)
def test_a_server_gets_its_own_key_and_that_of_openai_only_where_the_user_sends_it(given, expected, monkeypatch):
    for name in (*KEYS, "RAIN_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        for name, value in {**KEYS, **given}.items():
            monkeypatch.setenv(name, server.url if value == "URL" else value)
        engine_on(server)
        for headers in server.headers:
            assert headers["authorization"] == expected
            assert not any(value in OTHERS.values() for value in headers.values())


def ask_judge(url):
    judge = HFJudge("smollm2", JudgeConfig(judge_engine="http", judge_base_url=url))
    asyncio.run(judge.decide(Query("r", "raina", "harmless", "How?", "So.")))


def ask_evaluator(url):
    template = Template.from_file(Path(__file__).parents[2] / "imdb/templates/sentiment_words.txt")
    open_model(ModelSpec("smollm2", template, url), False, False)


@pytest.mark.parametrize(
    ("ask", "key"), [(ask_judge, "RAIN_JUDGE_API_KEY"), (ask_evaluator, "RAIN_EVALUATOR_API_KEY")]
)
def test_the_server_of_a_judge_or_an_evaluator_does_not_get_the_key_of_the_engine(ask, key, monkeypatch):
    monkeypatch.setenv("RAIN_API_KEY", "engine")
    for value, expected in ((None, "Bearer none"), ("own", "Bearer own")):
        if value:
            monkeypatch.setenv(key, value)
        with serving() as server:
            with suppress(RainError):  # its tokenizer is another one
                ask(server.url)
            assert {headers["authorization"] for headers in server.headers} == {expected}


def test_credentials_in_an_address_are_in_no_message():
    with serving() as server:
        secret = server.url.replace("//", "//user:hunter2@")
        asyncio.run(probe(ServerClient(secret), TOKENIZER, "toy"))
        assert server.headers[0]["authorization"].startswith("Basic ")
        server.fault = lambda number: "400"
        with pytest.raises(RainError, match=server.url) as caught:
            asyncio.run(ServerClient(secret).complete(greedy_request(PREFIX, 1, 1)))
        assert "hunter2" not in str(caught.value)
