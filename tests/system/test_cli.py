"""The allocation command as a user runs it: results, worker counts, broken input, kills and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_task import LETTERS, decisions

from rain.results.run_dir import read_results

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, str(ROOT / "HH" / "allocation.py")]
TOY = ["--engine", "toy"]
QUICK = (
    "--max-simulations 6 --extra-simulations 3 --min-visits 2 --candidates 4 --max-draws 3 --max-new-tokens 12".split()
)
QUESTIONS = ["Is the sea salty?", "Why", "How do I mend a bike?", "Human: what?", "What is kind?", "\u00fc \U0001f600?"]
MANY = 40
FIELDS = {"id", "question", "raina", "pa", "finish", "moves", "cost", "model", "seed", "config"}
COSTS = {"forward_passes", "tokens_computed", "tokens_reused", "seconds"}


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def allocate(*flags):
    command = [*COMMAND, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


def save_questions(path, questions):
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    return path


@pytest.fixture
def data(tmp_path):
    return save_questions(tmp_path / "data.jsonl", QUESTIONS)


@pytest.fixture
def many(tmp_path):
    """So many prompts that a run is far from its end when it is seen to have begun."""
    return save_questions(tmp_path / "many.jsonl", [f"What is {number}?" for number in range(MANY)])


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "letters.txt"
    path.write_text(LETTERS)
    return path


def answers(outdir):
    """Return what all records decide, by id; there is one record for each prompt."""
    found = read_results(outdir)
    lines = [line for path in outdir.glob("res_*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == len(found)
    return {record["id"]: decisions(record) for record in found}


def test_a_run_writes_a_record_for_each_prompt_and_the_whole_configuration(tmp_path):
    outdir = tmp_path / "out"
    done = allocate(*TOY, *QUICK, "--e", 3, "--outdir", outdir)
    assert done.returncode == 0, done.stderr
    assert "3 prompts answered, 0 failed" in done.stdout and str(outdir) in done.stdout
    assert {path.name for path in outdir.iterdir()} >= {"config.json", "res_0.jsonl"}
    demo = [json.loads(line)["question"] for line in (ROOT / "HH" / "demo.jsonl").read_text().splitlines()]
    config = json.loads((outdir / "config.json").read_text())
    for i, record in enumerate(read_results(outdir)):
        assert set(record) >= FIELDS and record["question"] == demo[i]
        assert record["id"].startswith(f"hh-{i:05d}-") and (record["model"], record["seed"]) == ("toy", 0)
        assert record["config"] == config["hash"] and record["finish"] in ("eos", "stop", "length")
        assert all(set(move) == {"text", "visits", "value", "simulations"} for move in record["moves"])
        rain, plain = record["cost"]["rain"], record["cost"]["plain"]
        assert set(plain) >= COSTS and set(rain) >= COSTS | {"simulations", "evaluations"}
        assert rain["simulations"] == sum(move["simulations"] for move in record["moves"]) > 0
        assert rain["tokens_computed"] > plain["tokens_computed"] > 0
    assert config["task"] == "hh" and config["rain"]["max_simulations"] == 6 and config["run"]["e"] == 3
    assert {"run", "engine", "evaluation", "rain", "files"} <= set(config)


def test_results_are_the_same_for_one_and_two_workers_and_any_concurrency(data, template, tmp_path):
    flags = [*TOY, *QUICK, "--dataset", data, "--templates", template]
    runs = {"one": ["--concurrency", 1], "two": ["--nump", 2, "--concurrency", 1], "six": ["--concurrency", 6]}
    found = []
    for name, more in runs.items():
        done = allocate(*flags, *more, "--outdir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        found.append(answers(tmp_path / name))
    assert found[0] == found[1] == found[2]
    assert len({record["raina"] for record in found[0].values()}) == len(QUESTIONS)
    assert {path.name for path in (tmp_path / "two").glob("res_*")} == {"res_0.jsonl", "res_1.jsonl"}


def test_a_range_gives_the_same_records_as_the_whole(data, template, tmp_path):
    flags = [*TOY, *QUICK, "--dataset", data, "--templates", template, "--outdir", tmp_path / "out"]
    assert allocate(*flags, "--s", 2, "--e", 4).returncode == 0
    part = answers(tmp_path / "out")
    assert [record["question"] for record in part.values()] == QUESTIONS[2:4]
    done = allocate(*flags)
    assert done.returncode == 0 and "2 of 6 prompts are done already" in done.stdout
    whole = answers(tmp_path / "out")
    assert len(whole) == 6 and part.items() <= whole.items()


def start_until(flags, ids):
    """Start a run of which the last of these prompts has committed something when this returns."""
    command = [*COMMAND, *map(str, flags), "--verbose"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment(), start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if any(line.startswith(f"[hh-{number:05d}-") for number in ids):
            return process
    raise AssertionError("the run ended before it was killed")


@pytest.mark.parametrize("nump", [1, 2])
def test_a_run_killed_at_once_goes_on_where_it_stopped_to_the_same_results(nump, many, template, tmp_path):
    flags = [*TOY, *QUICK, "--dataset", many, "--templates", template, "--nump", nump, "--concurrency", 1]
    assert allocate(*flags, "--outdir", tmp_path / "whole").returncode == 0
    outdir = tmp_path / "killed"
    process = start_until([*flags, "--outdir", outdir], ids=[2 + nump])
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.read_bytes() for path in outdir.glob("res_*.jsonl")}
    done = {record["id"] for record in read_results(outdir)}
    assert 1 <= len(done) < MANY
    with next(iter(before)).open("ab") as file:
        file.write(b'{"id": "hh-00039-torn", "question')  # as if the kill had come while a record was written
    again = allocate(*flags, "--outdir", outdir)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of {MANY} prompts are done already" in again.stdout
    assert answers(outdir) == answers(tmp_path / "whole")
    kept = {path: content.rpartition(b"\n")[0] for path, content in before.items()}
    assert all(path.read_bytes().startswith(content) for path, content in kept.items())
    assert f"{MANY} of {MANY} prompts are done already" in allocate(*flags, "--outdir", outdir).stdout


def test_another_configuration_in_the_same_directory_is_refused_and_changes_nothing(data, template, tmp_path):
    outdir = tmp_path / "out"
    flags = [*TOY, *QUICK, "--dataset", data, "--templates", template, "--outdir", outdir, "--e", 1]
    assert allocate(*flags).returncode == 0
    before = {path.name: path.read_bytes() for path in outdir.iterdir() if path.suffix != ".lock"}
    for more in (["--seed", 1], ["--exploration", 0], ["--no-node-addition"], ["--votes", "soft"]):
        refused = allocate(*flags, *more)
        assert refused.returncode == 2
        assert refused.stderr.startswith("rain: error: ") and refused.stderr.count("\n") == 1
        assert more[0].removeprefix("--").removeprefix("no-").replace("-", "_") in refused.stderr
    template.write_text(LETTERS.replace("Is it kind?", "Is it nice?"))
    assert allocate(*flags).returncode == 2
    template.write_text(LETTERS)
    for name in set(before) - {".lock"}:
        assert (outdir / name).read_bytes() == before[name]
    assert allocate(*flags, "--nump", 2, "--concurrency", 2, "--e", 2).returncode == 0


def test_a_prompt_that_fails_is_a_record_with_its_error_and_the_exit_code_says_so(data, template, tmp_path):
    rows = [json.dumps({"question": question}) for question in ("a", "b" * 3000, "c")]
    data.write_text("\n".join(rows))
    flags = [*TOY, *QUICK, "--dataset", data, "--templates", template, "--outdir", tmp_path / "out"]
    done = allocate(*flags)
    assert done.returncode == 1 and "2 prompts answered, 1 failed" in done.stdout
    first, failed, last = read_results(tmp_path / "out")
    assert "error" not in first and "error" not in last
    assert set(failed) >= {"id", "question", "error", "model", "seed", "config"} and "raina" not in failed
    assert "no room" in failed["error"] and "Traceback" not in done.stderr
    again = allocate(*flags)
    assert again.returncode == 1 and "2 of 3 prompts are done already" in again.stdout
    assert len(read_results(tmp_path / "out")) == 3


BROKEN_DATA = {
    "not JSON": ("data.jsonl", '{"question": "a"}\n{"question": \n', "line 2"),
    "missing field": ("data.jsonl", '{"question": "a"}\n{"quest": "b"}\n', "question"),
    "no text": ("data.jsonl", '{"question": 5}\n', "question"),
    "empty": ("data.jsonl", "", "no prompts"),
    "unknown kind": ("data.xml", "<a/>", "kind"),
    "no such file": (None, "", "none.jsonl"),
}


def refusal(*flags):
    """Return the sentence with which a command refuses; there is nothing else on standard error."""
    done = allocate(*flags)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("rain: error: ")]
    assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0])
    return lines[0]


@pytest.mark.parametrize("what", BROKEN_DATA)
def test_a_broken_data_set_is_named_in_one_sentence(what, tmp_path):
    name, content, named = BROKEN_DATA[what]
    path = tmp_path / (name or "none.jsonl")
    if name:
        path.write_text(content)
    sentence = refusal(*TOY, "--dataset", path, "--outdir", tmp_path / "out")
    assert named in sentence and path.name in sentence
    assert not (tmp_path / "out").exists(), "nothing is written before the input is known to be good"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--nump", 0], "--nump is 0"),
        (["--nump", -3], "--nump is -3"),
        (["--concurrency", 0], "--concurrency is 0"),
        (["--s", 5, "--e", 5], "--e is 5"),
        (["--s", -1], "--s is -1"),
        (["--s", 1000], "--s is 1000"),
        (["--e", 1000], "--e is 1000"),
        (["--max-simulations", 0], "max_simulations is 0"),
        (["--value-threshold", 3], "value_threshold is 3"),
        (["--engine", "abacus"], "abacus"),
        (["--preset", "fast"], "--preset"),
        (["--templates", "none.txt"], "none.txt"),
        (["--calibration", "none.json"], "none.json"),
        (["--cache-tokens", 0], "cache_tokens"),
    ],
)
def test_a_setting_out_of_range_is_named_in_one_sentence(flags, named, tmp_path):
    assert named in refusal(*TOY, "--outdir", tmp_path / "out", *flags)


def test_a_model_that_does_not_exist_is_named_in_one_sentence(tmp_path):
    sentence = refusal("--modelname", "./no/such/model", "--e", 1, "--outdir", tmp_path / "out")
    assert "./no/such/model" in sentence


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("=== ask", "=== task", "line 11"),
        ("{question}", "", "question"),
        ("letters\n", "words\n", "'kind' is no single token"),
    ],
    ids=["unknown section", "no question", "label of several tokens"],
)
def test_a_bad_template_is_named_in_one_sentence(old, new, named, template, tmp_path):
    template.write_text(LETTERS.replace(old, new, 1))
    sentence = refusal(*TOY, "--templates", template, "--e", 1, "--outdir", tmp_path / "out")
    assert named in sentence and str(template) in sentence


def test_a_directory_that_cannot_be_made_and_one_that_is_in_use_are_named(many, template, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refusal(*TOY, "--outdir", tmp_path / "file" / "out")
    flags = [*TOY, *QUICK, "--dataset", many, "--templates", template, "--outdir", tmp_path / "out"]
    process = start_until(flags, ids=range(MANY))
    try:
        process.send_signal(signal.SIGSTOP)
        assert "another run" in refusal(*flags)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_help_explains_every_flag_with_its_default(tmp_path):
    done = allocate("--help")
    assert done.returncode == 0 and done.stderr == ""
    for flag in "--nump --s --e --outdir --modelname --dataset --maxlen --max-new-tokens --dtype".split():
        assert f"\n  {flag} " in done.stdout
    text = " ".join(done.stdout.split())
    assert "(default: 50)" in text and "(default: smollm2)" in text and "(default: demo.jsonl)" in text


def test_a_flag_that_is_unknown_or_no_number_is_refused_by_usage(tmp_path):
    for flags in (["--nonsense"], ["--nump", "two"]):
        done = allocate(*TOY, *flags)
        assert done.returncode == 2 and "Traceback" not in done.stderr and "usage:" in done.stderr
