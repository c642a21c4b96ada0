"""Inspect against a server (RAIN_BASE_URL, RAIN_API_KEY), or with scores of `rain export`: with_inspect.py [FILE]."""

import json
import sys
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes, precomputed_scores
from inspect_ai.solver import generate, solver


def answer():
    """Ten samples, in one piece and streamed."""
    samples = [Sample(input=f"Question {number}?", target="a") for number in range(10)]
    task = Task(dataset=samples, solver=generate(), scorer=includes())
    for model_args in ({}, {"stream": True}):
        [log] = eval(task, model="openai-api/rain/rain/toy", model_args=model_args, max_tokens=16, display="plain")
        assert log.status == "success", log.error
        assert len(log.samples) == 10 and all(sample.output.completion for sample in log.samples)
        assert log.stats.model_usage["openai-api/rain/rain/toy"].output_tokens > 0


@solver
def nothing():
    """Ask no model."""

    async def solve(state, generate):
        return state

    return solve


def score(file):
    """Every sample gets the score of its id."""
    rows = {row["id"]: row for row in map(json.loads, Path(file).read_text().splitlines())}
    samples = [Sample(id=id, input="?") for id in [*rows, "without a score"]]
    task = Task(dataset=samples, solver=nothing(), scorer=precomputed_scores(file))
    [log] = eval(task, model=None, display="plain")
    assert log.status == "success", log.error
    found = {str(sample.id): one for sample in log.samples for one in (sample.scores or {}).values()}
    read = {id: {"id": id, **one.model_dump(include={"value", "answer", "explanation"})} for id, one in found.items()}
    assert {id: read[id] for id in rows} == rows
    [metrics] = [one.metrics for one in log.results.scores]
    assert abs(metrics["accuracy"].value - sum(row["value"] for row in rows.values()) / len(rows)) < 1e-9


if len(sys.argv) > 1:
    score(sys.argv[1])
else:
    answer()
print("inspect: ok")
