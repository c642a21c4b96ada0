"""The command on a server that is away or breaks: no prompt is blamed, none is lost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from support.commands import allocate, refusal, save_questions
from support.completions_server import CompletionsServer, serving
from support.tiny_models import save_tiny_model
from support.tiny_task import LETTERS, saved

from rain.results.run_dir import iter_results

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
PROMPTS = 200
FLAGS = (
    "--engine http --dtype float32 --max-simulations 1 --extra-simulations 1 --min-visits 0 --candidates 2 "
    "--max-draws 2 --max-new-tokens 2 --patience 0.3 --concurrency 8"
).split()


def flags(folder: Path, server: CompletionsServer) -> list[object]:
    """Return those of a run of all prompts in a folder."""
    data = save_questions(folder / "data.jsonl", [f"What is {number}?" for number in range(PROMPTS)])
    own = ["--base-url", server.url, "--modelname", save_tiny_model(folder / "model", 4096)]
    return [*FLAGS, *own, "--templates", saved(folder, LETTERS), "--dataset", data, "--outdir", folder / "out"]


def test_all_prompts_are_answered_although_the_server_was_away_for_longer_than_the_patience(tmp_path: Path) -> None:
    with serving(context=4096) as server:
        server.fault = lambda number: "503" if number > 150 and server.listed < 2 else ""
        done = allocate(*flags(tmp_path, server))
        assert done.returncode == 0, done.stderr
        assert server.listed == 2, "the worker was started anew, once"
    records = list(iter_results(tmp_path / "out"))
    assert len(records) == PROMPTS and not any("error" in record for record in records)


def test_a_server_whose_numbers_break_ends_the_run_and_costs_no_prompt(tmp_path: Path) -> None:
    """From its 400th request on all that it says is NaN."""

    def tamper(reply: Any) -> Any:
        for choice in reply.get("choices", ()) if len(server.requests) > 400 else ():
            if "logprobs" in choice:
                choice["logprobs"]["token_logprobs"][0] = math.nan
        return reply

    with serving(context=4096) as server:
        server.tamper = tamper
        sentence = refusal(*flags(tmp_path, server))
        assert f"{server.url} cannot be used" in sentence and "nan" in sentence
    records = list(iter_results(tmp_path / "out"))
    assert 0 < len(records) < PROMPTS and not any("error" in record for record in records)
