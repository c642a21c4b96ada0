"""Fixtures of all tests: one thread, the small real model, a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from typing import Any  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def smollm2() -> tuple[Any, Any]:
    """Return the embedded model in float32 and its tokenizer; fetched and converted on first use."""
    from rain.models.loading import load_model

    return load_model("smollm2", dtype="float32")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: tuple[Any, Any]) -> Any:
    """Return the tokenizer of the embedded model."""
    return smollm2[1]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Return a Ray cluster on this machine (``ray_nodes.Nodes``)."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    from support.ray_nodes import Nodes

    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return Chromium without a window, driven by Playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or find_spec("playwright") is None:
        needed = "RAIN_TESTS_NEED_BROWSER" in os.environ  # .ci/run
        (pytest.fail if needed else pytest.skip)("there is no Chromium, or Playwright's package is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Any]:
    """Return a function that makes a page in a browser profile of its own; complaints of a page fail the test."""
    problems, contexts = [], []

    def make(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []
