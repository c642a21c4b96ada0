"""Methods in the allocation command: records, tables, configuration."""

from __future__ import annotations

from support.commands import QUICK, allocate

from rain.results.run_dir import iter_results, read_config


def test_records_table_and_configuration_name_the_method(tmp_path):
    done = allocate(*QUICK, "--e", 2, "--method", "best-of-n", "--n", 4, "--outdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best-of-n/greedy" in done.stdout and "per commit" not in done.stdout
    config = read_config(tmp_path)
    assert config["method"] == {"method": "best-of-n", "n": 4, "n_top_k": None, "rounds": 1, "budget": ""}
    for record in iter_results(tmp_path):
        assert (record["method"], len(record["drafts"])) == ("best-of-n", 4)
        assert record["config"] == config["hash"]
        assert set(record["drafts"][0]) == {"text", "value", "finish", "tokens_computed", "seconds"}
