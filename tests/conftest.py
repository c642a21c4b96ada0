"""Fixtures of all tests: one thread, and the small real model."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from typing import Any  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def smollm2() -> tuple[Any, Any]:
    """Return the embedded model in float32 and its tokenizer; fetched and converted on first use."""
    from rain.models import load_model

    return load_model("smollm2", dtype="float32")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: tuple[Any, Any]) -> Any:
    """Return the tokenizer of the embedded model."""
    return smollm2[1]
