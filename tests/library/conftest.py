"""Rain objects around toy engines."""

from __future__ import annotations

import pytest
from support.watched import FAST, WatchedEngine, difficult_distribution

from rain import Rain


@pytest.fixture
def engine(monkeypatch):
    """The engine of every Rain object that a test opens."""
    engine = WatchedEngine()
    monkeypatch.setattr("rain.library.open_engine", lambda *_: (engine, engine.tokenizer))
    return engine


@pytest.fixture
def open_rain(engine):
    """A function that opens small Rain objects around ``engine``; they are closed after the test."""
    opened = []

    def open_one(**settings):
        opened.append(Rain(engine="toy", **{**FAST, **settings}))
        return opened[-1]

    yield open_one
    for rain in opened:
        rain.close()


@pytest.fixture
def rain(open_rain):
    return open_rain()


@pytest.fixture
def difficult(monkeypatch):
    """The toy model writes emojis, stop strings and gaps, which are hard to stream."""
    monkeypatch.setattr("rain.engines.toy.log_distribution", difficult_distribution)
