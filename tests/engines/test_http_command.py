"""The command on a server that is away for longer than its patience: no prompt is blamed, none is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import allocate, save_questions
from support.completions_server import serving
from support.tiny_models import save_tiny_model
from support.tiny_task import LETTERS, saved

from rain.results.run_dir import iter_results

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
PROMPTS = 200
FLAGS = (
    "--engine http --dtype float32 --max-simulations 1 --extra-simulations 1 --min-visits 0 --candidates 2 "
    "--max-draws 2 --max-new-tokens 2 --patience 0.3 --concurrency 8"
).split()


def test_all_prompts_are_answered_although_the_server_was_away_for_longer_than_the_patience(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", 4096)
    data = save_questions(tmp_path / "data.jsonl", [f"What is {number}?" for number in range(PROMPTS)])
    with serving(context=4096) as server:
        server.fault = lambda number: "503" if number > 150 and server.listed < 2 else ""
        flags = [*FLAGS, "--base-url", server.url, "--modelname", model, "--templates", saved(tmp_path, LETTERS)]
        done = allocate(*flags, "--dataset", data, "--outdir", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert server.listed == 2, "the worker was started anew, once"
    records = list(iter_results(tmp_path / "out"))
    assert len(records) == PROMPTS and not any("error" in record for record in records)
