"""What a run meets outside of a laboratory: hostile prompts, full disks, two runs at once, broken data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.commands import MANY, allocate, answers, read_until_commit, refusal, running, save_questions
from support.hostile import ODD, SPECIAL_TOKENS, SURROGATES, TEMPLATE_WORDS, TOO_LONG, unicode_prompts
from support.ray_nodes import children, command

from rain.results.jsonl import read_records
from rain.results.run_dir import iter_results, read_config, result_paths

pytestmark = pytest.mark.faults

SMALLEST = "--engine toy --max-simulations 2 --extra-simulations 1 --min-visits 0 --max-new-tokens 3".split()


def test_every_unicode_block_and_every_hostile_prompt_gets_an_answer_or_an_error_line(
    template: Path, tmp_path: Path
) -> None:
    blocks = unicode_prompts()
    assert len(blocks) >= 250
    questions = [*blocks, *TEMPLATE_WORDS, *SPECIAL_TOKENS, *ODD, SURROGATES, *TOO_LONG]
    data = save_questions(tmp_path / "data.jsonl", questions)
    flags = [*SMALLEST, "--dataset", data, "--templates", template, "--concurrency", 8]
    done = allocate(*flags, "--outdir", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    records = list(iter_results(tmp_path / "out"))
    assert [record["question"] for record in records] == questions  # ids are in the order of the data set
    failed = {record["question"]: record["error"] for record in records if "error" in record}
    assert set(failed) == {"", *TOO_LONG}
    assert "empty" in failed[""] and all("no room" in failed[question] for question in TOO_LONG)
    assert all(record["moves"] or record["finish"] == "empty" for record in records if "error" not in record)


def test_a_file_system_that_fills_up_is_reported_in_one_sentence_and_nothing_finished_is_lost(
    flags: list[object], many: Path, tmp_path: Path
) -> None:
    """A small file system of its own fills up, is made larger, and the same command resumes."""
    private = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*private, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("this machine permits no private mounts")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=4k none {disk} && "$@"; echo code $?
        umount {disk}; mount -t tmpfs -o size=16k none {disk} && "$@"; echo code $?
        cp -r {disk}/out {kept}
        mount -o remount,size=8m {disk} && "$@"; echo code $?; cp -r {disk}/out {tmp_path}/out
    """
    flags += ["--dataset", many, "--outdir"]
    done = allocate(*flags, disk / "out", before=[*private, script, "sh"])
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == ["code 2", "code 2", "code 0"]
    config, results = [line for line in done.stderr.splitlines() if line.startswith("rain: error: ")]
    assert "config.json: No space left on device; make room" in config
    assert "res_0.jsonl: No space left on device; make room" in results
    assert "Traceback" not in done.stderr
    some = list(read_records(kept / "res_0.jsonl"))
    assert 0 < len(some) < MANY and f"{len(some)} of {MANY} prompts are done already" in done.stdout
    assert list(read_records(tmp_path / "out" / "res_0.jsonl"))[: len(some)] == some
    assert allocate(*flags, tmp_path / "whole").returncode == 0
    assert answers(tmp_path / "out") == answers(tmp_path / "whole")


def test_of_two_runs_that_start_together_in_one_directory_one_is_refused_and_one_does_everything(
    flags: list[object], data: Path, tmp_path: Path
) -> None:
    many = 900  # the first must not have ended before the second starts
    save_questions(data, [f"What is {number}?" for number in range(many)])
    flags += ["--outdir", tmp_path / "out"]
    with running(*flags, stderr=subprocess.PIPE) as one, running(*flags, stderr=subprocess.PIPE) as other:
        ends = [(process.communicate()[1], process.returncode) for process in (one, other)]
    codes = {code: err for err, code in ends}
    assert set(codes) == {0, 2}, ends
    assert "another run" in codes[2] and str(tmp_path / "out") in codes[2]
    assert len(answers(tmp_path / "out")) == many


BROKEN = {
    2: '{"question": ',
    4: '{"question": 5}',
    5: "\xff\xfe",
    7: '["question"]',
    8: "[" * 100_000,
    9: '{"quest": "b"}',
}


def test_broken_lines_are_all_named_before_any_work_or_skipped_and_the_rest_is_done(
    flags: list[object], data: Path, tmp_path: Path
) -> None:
    good = {line: json.dumps({"question": f"Question {line}?"}) for line in (1, 3, 6, 10)}
    lines = {**good, **BROKEN}
    data.write_text("\n".join(lines[number] for number in sorted(lines)), encoding="latin-1")
    flags += ["--outdir", tmp_path / "out"]
    sentence = refusal(*flags)
    assert "6 broken rows" in sentence and all(f"line {line}" in sentence for line in list(BROKEN)[:5])
    assert not (tmp_path / "out").exists()
    done = allocate(*flags, "--skip-bad")
    assert done.returncode == 0, done.stderr
    skipped = [line for line in done.stderr.splitlines() if line.startswith("rain: skipped: ")]
    assert [f"line {number}" in line for line, number in zip(skipped, BROKEN, strict=True)] == [True] * 6
    found = list(iter_results(tmp_path / "out"))
    assert [record["question"] for record in found] == ["Question 1?", "Question 3?", "Question 6?", "Question 10?"]


def workers(pid: int) -> list[int]:
    """Return the worker processes of a command."""
    return [child for child in children(pid) if "spawn_main" in command(child)]


def test_a_prompt_that_is_given_up_has_an_error_record_like_any_other(template: Path, tmp_path: Path) -> None:
    data = save_questions(tmp_path / "data.jsonl", ["What kills you?"])
    endless = "--engine toy --max-simulations 20 --extra-simulations 20 --max-new-tokens 1900 --concurrency 1".split()
    flags = ["--dataset", data, "--templates", template, "--outdir", tmp_path / "out", "--seed", 5, "--verbose"]
    killed: set[int] = set()
    with running(*endless, *flags) as run:
        assert run.stdout is not None
        for line in run.stdout:
            new = set(workers(run.pid)) - killed if line.startswith("[hh-") else set()
            for pid in new:
                os.kill(pid, signal.SIGKILL)
            killed |= new
        assert run.wait() == 1 and len(killed) == 3
    [record] = iter_results(tmp_path / "out")
    [path] = [path for path in result_paths(tmp_path / "out") if any(read_records(path))]
    assert path.name == "res_lost.jsonl"
    assert (record["question"], record["model"], record["seed"]) == ("What kills you?", "toy", 5)
    assert record["config"] == read_config(tmp_path / "out")["hash"]
    assert "died 3 times" in record["error"]


def test_a_worker_that_is_stopped_is_replaced_and_every_prompt_is_answered(
    flags: list[object], many: Path, tmp_path: Path
) -> None:
    flags += ["--dataset", many, "--concurrency", 2]
    with running(
        *flags, "--stall-timeout", 3, "--outdir", tmp_path / "out", "--verbose", stderr=subprocess.PIPE
    ) as run:
        read_until_commit(run, range(MANY))
        os.kill(workers(run.pid)[0], signal.SIGSTOP)
        _, err = run.communicate()
        assert run.returncode == 0 and "gave no sign of life for 3 s" in err, err
    assert allocate(*flags, "--outdir", tmp_path / "whole").returncode == 0
    assert answers(tmp_path / "out") == answers(tmp_path / "whole")
