"""Fixtures of all tests: one thread, and the small real model."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
