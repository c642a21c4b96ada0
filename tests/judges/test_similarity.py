"""Similarity to reference answers."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from rain.core.types import Vector
from rain.judges.base import JudgeConfig, Query
from rain.judges.similarity import SimilarityJudge


class Directions:
    """Embeds a text along the axis of its first letter, t or f; other texts lie between, nearer to t."""

    async def encode(self, texts: Sequence[str]) -> list[Vector]:
        axes = {"t": (1.0, 0.0), "f": (0.0, 1.0)}
        return [np.array(axes.get(text[:1], (0.8, 0.6))) for text in texts]


def judge() -> SimilarityJudge:
    return SimilarityJudge("none", JudgeConfig(), Directions())


@pytest.mark.parametrize(
    ("response", "right", "wrong", "decision"),
    [
        ("t", ("t",), ("f",), True),
        ("f", ("t",), ("f",), False),
        ("x", ("t",), ("f",), True),
        ("x", ("f",), ("t",), False),
        ("x", ("f", "t"), ("f",), True),
        (" ", ("t",), ("f",), None),
        ("t", ("t",), (), None),
    ],
)
def test_an_answer_is_true_if_it_is_closest_to_a_true_reference(
    response: str, right: tuple[str, ...], wrong: tuple[str, ...], decision: bool | None
) -> None:
    query = Query("id", "raina", "true", "why?", response, right=right, wrong=wrong)
    assert asyncio.run(judge().decide(query)).decision is decision


def test_only_truth_is_decided() -> None:
    assert judge().version("true") == "references-1"
    assert judge().version("info") is None
