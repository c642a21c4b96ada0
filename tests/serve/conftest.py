"""Servers of the toy model, started once for a file."""

from __future__ import annotations

import hashlib
from functools import partial

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
def anna(guarded_server):
    """A client of the guarded server with a key."""
    from support.toy_server import BEARER

    with guarded_server.client(headers=BEARER) as client:
        yield client


@pytest.fixture
def ask(client):
    """A function that asks, with the fields of a request, and returns the response."""
    from support.toy_server import ask

    return partial(ask, client)
