"""Methods in the allocation command: records, tables, resuming."""

from __future__ import annotations

import pytest
from support.commands import QUICK, allocate, refusal

from rain.results.run_dir import iter_results, read_config


@pytest.fixture(scope="module")
def outdir(tmp_path_factory):
    outdir = tmp_path_factory.mktemp("run") / "out"
    done = allocate(*QUICK, "--e", 2, "--method", "best-of-n", "--n", 4, "--outdir", outdir)
    assert done.returncode == 0, done.stderr
    assert "best-of-n/greedy" in done.stdout and "per commit" not in done.stdout
    return outdir


def test_records_and_configuration_name_the_method(outdir):
    config = read_config(outdir)
    assert config["method"] == {"method": "best-of-n", "n": 4, "n_top_k": None, "rounds": 1, "budget": ""}
    for record in iter_results(outdir):
        assert (record["method"], len(record["drafts"])) == ("best-of-n", 4)
        assert record["config"] == config["hash"]
        assert set(record["drafts"][0]) == {"text", "value", "finish", "tokens_computed", "seconds"}


def test_a_run_is_continued_by_the_same_method_and_refused_to_another(outdir):
    more = allocate(*QUICK, "--e", 3, "--method", "best-of-n", "--n", 4, "--outdir", outdir)
    assert "2 of 3 prompts are done already" in more.stdout and len(list(iter_results(outdir))) == 3
    refused = refusal(*QUICK, "--e", 3, "--method", "greedy", "--outdir", outdir)
    assert 'method.method: "best-of-n" there, "greedy" here' in refused
    assert len(list(iter_results(outdir))) == 3
