"""Servers of the toy model, started once for a file."""

from __future__ import annotations

import hashlib

import pytest


@pytest.fixture(scope="session")
def server():
    from support.toy_server import served

    flags = "--keep-alive 0.2 --max-budget simulations=100000,seconds=60 --allow-host Box.example".split()
    with served("--concurrency", 8, "--max-queue", 24, *flags) as server:
        yield server


@pytest.fixture(scope="session")
def guarded_server(tmp_path_factory):
    """A server with two keys, one search at a time, two in the queue and a page for anyone."""
    from support.toy_server import KEY, served

    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"# who may ask\nanna {KEY}\nben sha256:{hashlib.sha256(b'second-key-of-ben').hexdigest()}\n")
    flags = "--concurrency 1 --max-queue 2 --keep-alive 0.2 --cors https://chat.example --strict --page".split()
    with served("--api-key-file", keys, *flags, "--log-text") as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def ask(client):
    """A function that asks, with the fields of a request, and returns the response."""

    def ask(question="What now?", **fields):
        headers = fields.pop("headers", None)
        body = {"model": "rain/toy", "messages": [{"role": "user", "content": question}], **fields}
        return client.post("/v1/chat/completions", json=body, headers=headers)

    return ask
