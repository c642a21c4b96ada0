"""What a run meets outside of a laboratory: hostile prompts, full disks, runs side by side, broken data."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.hostile import ODD, SPECIAL_TOKENS, SURROGATES, TEMPLATE_WORDS, TOO_LONG, unicode_prompts
from support.tiny_task import LETTERS
from test_cli import COMMAND, QUICK, TOY, allocate, answers, environment, refusal, save_questions

from rain.results.jsonl import scan
from rain.results.run_dir import read_results, result_paths

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("time_limit")]

SMALLEST = [*"--max-simulations 2 --extra-simulations 1 --min-visits 0".split(), "--max-new-tokens", "3"]
SPACE = 6144  # bytes; some records of a short run
PROMPTS = 24


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "letters.txt"
    path.write_text(LETTERS)
    return path


def run(*flags: object, limit: int = 0, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command; no file may grow beyond the limit (bytes), if there is one."""

    def confine() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*before, *COMMAND, *TOY, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=200, preexec_fn=confine)


def test_every_unicode_block_and_every_hostile_prompt_gets_an_answer_or_an_error_line(
    template: Path, tmp_path: Path
) -> None:
    blocks = unicode_prompts()
    assert len(blocks) >= 250
    questions = [*blocks, *TEMPLATE_WORDS, *SPECIAL_TOKENS, *ODD, SURROGATES, *TOO_LONG]
    data = save_questions(tmp_path / "data.jsonl", questions)
    done = run(*SMALLEST, "--dataset", data, "--templates", template, "--outdir", tmp_path / "out", "--concurrency", 8)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"{len(questions) - len(TOO_LONG)} prompts answered, {len(TOO_LONG)} failed" in done.stdout
    records = read_results(tmp_path / "out")
    assert [record["question"] for record in records] == questions  # ids are in the order of the data set
    assert [record["question"] for record in records if "error" in record] == list(TOO_LONG)
    assert all("no room" in record["error"] for record in records if "error" in record)
    assert all(record["moves"] or record["finish"] == "empty" for record in records if "error" not in record)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the sentence that a command ended with."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("rain: error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.mark.parametrize("nump", [1, 2])
def test_a_full_disk_ends_the_run_and_with_room_the_same_command_goes_on(
    nump: int, template: Path, tmp_path: Path
) -> None:
    data = save_questions(tmp_path / "data.jsonl", [f"What is {number}?" for number in range(PROMPTS)])
    flags = [*QUICK, "--dataset", data, "--templates", template, "--nump", nump, "--outdir"]
    assert run(*flags, tmp_path / "whole").returncode == 0
    sentence = one_sentence(run(*flags, tmp_path / "out", limit=SPACE))
    assert "cannot write" in sentence and "res_" in sentence and "make room there and run the same command" in sentence
    files = result_paths(tmp_path / "out")
    assert files and not any(scan(path).torn for path in files)
    some = answers(tmp_path / "out")
    assert 0 < len(some) < PROMPTS
    before = {path: path.read_bytes() for path in files}
    again = run(*flags, tmp_path / "out")
    assert again.returncode == 0 and f"{len(some)} of {PROMPTS} prompts are done already" in again.stdout
    assert all(path.read_bytes().startswith(content) for path, content in before.items())
    assert answers(tmp_path / "out") == answers(tmp_path / "whole")


def test_a_file_system_that_fills_up_is_told_in_one_sentence_and_nothing_finished_is_lost(
    template: Path, tmp_path: Path
) -> None:
    """A small file system of its own fills up, is made larger, and the same command goes on."""
    private = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*private, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("this machine permits no private mounts")
    data = save_questions(tmp_path / "data.jsonl", [f"What is {number}?" for number in range(PROMPTS)])
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=4k none {disk} && "$@"; echo code $?
        umount {disk}; mount -t tmpfs -o size=16k none {disk} && "$@"; echo code $?
        cp -r {disk}/out {kept}
        mount -o remount,size=8m {disk} && "$@"; echo code $?; cp -r {disk}/out {tmp_path}/out
    """
    flags = [*QUICK, "--dataset", data, "--templates", template, "--outdir", disk / "out"]
    done = run(*flags, before=[*private, script, "sh"])
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == ["code 2", "code 2", "code 0"]
    config, results = [line for line in done.stderr.splitlines() if line.startswith("rain: error: ")]
    assert "config.json: No space left on device; make room there" in config
    assert "res_0.jsonl: No space left on device; make room there" in results
    assert "Traceback" not in done.stderr
    some = [line.raw for line in scan(kept / "res_0.jsonl").lines]
    assert 0 < len(some) < PROMPTS and f"{len(some)} of {PROMPTS} prompts are done already" in done.stdout
    assert [line.raw for line in scan(tmp_path / "out" / "res_0.jsonl").lines][: len(some)] == some
    assert len(answers(tmp_path / "out")) == PROMPTS


def test_of_two_runs_that_start_together_in_one_directory_one_is_refused_and_one_does_everything(
    template: Path, tmp_path: Path
) -> None:
    data = save_questions(tmp_path / "data.jsonl", [f"What is {number}?" for number in range(20)])
    flags = [*COMMAND, *TOY, *QUICK, "--dataset", data, "--templates", template, "--outdir", tmp_path / "out"]
    both = [
        subprocess.Popen(
            [*map(str, flags)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(2)
    ]
    ends = sorted((process.communicate()[1], process.returncode) for process in both)
    codes = {code: err for err, code in ends}
    assert set(codes) == {0, 2}, ends
    assert f"is using {tmp_path / 'out'}; wait for it or give another --outdir" in codes[2]
    assert len(answers(tmp_path / "out")) == 20


BROKEN = {
    2: ('{"question": ', "line 2 is not JSON"),
    4: ('{"question": 5}', "line 4 has a number in the field 'question'"),
    5: ("\xff\xfe", "line 5 is not UTF-8"),
    7: ('["question"]', "line 7 is a list, not an object"),
    8: ("[" * 100_000, "line 8 is not"),
    9: ('{"quest": "b"}', "line 9 lacks the field 'question'"),
}


def test_broken_lines_are_all_named_before_any_work_or_skipped_and_the_rest_is_done(
    template: Path, tmp_path: Path
) -> None:
    good = {line: json.dumps({"question": f"Question {line}?"}) for line in (1, 3, 6, 10)}
    lines = {**good, **{line: text for line, (text, _) in BROKEN.items()}}
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines[number] for number in sorted(lines)), encoding="latin-1")
    flags = [*TOY, *QUICK, "--dataset", data, "--templates", template, "--outdir", tmp_path / "out"]
    sentence = refusal(*flags)
    assert "6 broken rows" in sentence and all(named in sentence for _, named in list(BROKEN.values())[:5])
    assert not (tmp_path / "out").exists()
    done = allocate(*flags, "--skip-bad")
    assert done.returncode == 0, done.stderr
    skipped = [line for line in done.stderr.splitlines() if line.startswith("rain: skipped: ")]
    assert [named in line for line, (_, named) in zip(skipped, BROKEN.values(), strict=True)] == [True] * 6
    found = read_results(tmp_path / "out")
    assert [record["question"] for record in found] == ["Question 1?", "Question 3?", "Question 6?", "Question 10?"]


def workers(pid: int) -> list[int]:
    """Return the worker processes of a command."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def test_a_prompt_that_is_given_up_has_an_error_record_like_any_other(template: Path, tmp_path: Path) -> None:
    data = save_questions(tmp_path / "data.jsonl", ["What kills you?"])
    endless = ["--max-simulations", 3, "--extra-simulations", 3, "--max-new-tokens", 1900, "--concurrency", 1]
    flags = [
        *endless,
        "--dataset",
        data,
        "--templates",
        template,
        "--outdir",
        tmp_path / "out",
        "--seed",
        5,
        "--verbose",
    ]
    command = subprocess.Popen(
        [*COMMAND, *TOY, *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert command.stdout is not None
    killed: set[int] = set()
    for line in command.stdout:
        new = set(workers(command.pid)) - killed if line.startswith("[hh-") else set()
        for pid in new:
            os.kill(pid, signal.SIGKILL)
        killed |= new
    assert command.wait() == 1 and len(killed) == 3
    [record] = read_results(tmp_path / "out")
    [path] = [path for path in result_paths(tmp_path / "out") if scan(path).lines]
    assert path.name == "res_lost.jsonl"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: record[name] for name in ("question", "model", "seed", "config")} == {
        "question": "What kills you?",
        "model": "toy",
        "seed": 5,
        "config": config["hash"],
    }
    assert "the worker died 3 times on this prompt" in record["error"]
