"""Workers may die at any moment, and so may their parent: every job is still done once, and nobody is left behind."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.limits import within
from support.pool_workers import obedient, unstartable

from rain.core.errors import RainError
from rain.pool.devices import split, visible_gpus
from rain.pool.launchers import LocalLauncher
from rain.pool.pool import Pool, PoolSummary
from rain.pool.worker import Event, Job, WorkerMain
from rain.results.jsonl import scan
from rain.results.run_dir import read_results, result_paths

SCRIPT = Path(__file__).parent / "pool_workers.py"
LIMIT_S = 120


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """Turn a run that hangs into a failure; leave no process behind, whatever a test finds."""
    with within(LIMIT_S):
        yield
    while STARTED:
        process = STARTED.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


class Run:
    """One run of a pool in this process: its events, its summary and what is on the disk."""

    def __init__(
        self, folder: Path, *payloads: str, main: WorkerMain = obedient, nump: int = 2, **options: Any
    ) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.lost: list[tuple[str, str]] = []
        self.summary: PoolSummary | None = None
        self.jobs = [Job(f"job-{number}", payload) for number, payload in enumerate(payloads)]
        self.watch = options.pop("watch", lambda event: None)
        environments = [{"OMP_NUM_THREADS": str(index + 3)} for index in range(nump)]
        self.pool = Pool(
            LocalLauncher(main, options.pop("settings", str(folder)), environments),
            nump,
            is_done=lambda job: job in self.written(),
            on_lost=lambda job, message: self.lost.append((job.id, message)),
            on_event=self._note,
            **options,
        )

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self.watch(event)

    def go(self) -> Run:
        self.summary = self.pool.run(self.jobs)
        return self

    def written(self) -> list[str]:
        return [line.record["id"] for path in result_paths(self.folder) for line in scan(path).lines]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start a run as a program in a process group of its own."""
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, arguments)]
    pipe = subprocess.PIPE
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    STARTED.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=env))
    return STARTED[-1]


def read_until(process: subprocess.Popen[str], word: str, count: int) -> list[str]:
    """Read a program's output up to the line in which a first word comes up for the given time."""
    assert process.stdout is not None
    lines: list[str] = []
    while Counter(line.split()[0] for line in lines)[word] < count:
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        lines.append(line)
    return lines


def watchers(lines: list[str]) -> list[int]:
    """Open a descriptor for each worker process that becomes readable when the process has ended."""
    return [os.pidfd_open(int(line.split()[1])) for line in lines if line.startswith("pid ")]


def await_ends(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], 30)[0], "a worker was left behind"
        os.close(descriptor)


def gate(folder: Path) -> int:
    """Make the pipe that `wait` jobs read one byte from; returns its end to write to."""
    os.mkfifo(folder / "gate")
    return os.open(folder / "gate", os.O_RDWR)


def test_every_job_is_done_once_and_each_worker_has_its_variables_before_it_imports(tmp_path: Path) -> None:
    way = gate(tmp_path)
    before = os.environ.get("OMP_NUM_THREADS")

    def open_for_both(event: Event) -> None:
        if event.kind == "progress" and len(run.of("progress")) == 2:
            os.write(way, b"go")

    run = Run(tmp_path, *["wait", *["ok"] * 10] * 2, watch=open_for_both, concurrency=100)  # 11 jobs each
    assert run.go().summary == (22, 0, 0, False)
    os.close(way)
    assert run.summary is not None and run.summary.exit_code == 0
    assert sorted(run.written()) == sorted(job.id for job in run.jobs)
    assert {(event.data["worker"], event.data["threads"]) for event in run.of("progress")} == {(0, "3"), (1, "4")}
    assert os.environ.get("OMP_NUM_THREADS") == before
    one = [event.kind for event in run.events if event.job == "job-7"]
    assert one == ["started", "progress", "commit", "done"]


def test_no_more_workers_start_than_there_are_jobs_and_none_for_no_jobs(tmp_path: Path) -> None:
    assert len(Run(tmp_path, "ok", nump=3).go().of("ready")) == 1
    assert Run(tmp_path, nump=3).go().summary == (0, 0, 0, False)


def test_a_slow_job_holds_up_nobody(tmp_path: Path) -> None:
    way = gate(tmp_path)

    def open_at_last(event: Event) -> None:
        if event.kind == "done" and len(run.of("done")) == 9:
            os.write(way, b"g")

    run = Run(tmp_path, "wait", *["ok"] * 9, watch=open_at_last)
    assert run.go().summary == (10, 0, 0, False)
    os.close(way)
    assert run.of("done")[-1].job == "job-0"


def test_a_worker_has_no_more_jobs_in_hand_than_its_concurrency(tmp_path: Path) -> None:
    run = Run(tmp_path, *["ok"] * 8, nump=1, concurrency=3)
    hand: list[int] = []
    give = run.pool._give

    def count(slot: Any, job: Job) -> None:
        give(slot, job)
        hand.append(len(slot.jobs))

    run.pool._give = count  # type: ignore[method-assign]
    assert run.go().summary is not None and max(hand) == 3


def test_a_worker_that_is_killed_is_replaced_and_its_jobs_are_done_once(tmp_path: Path) -> None:
    run = Run(tmp_path, "ok", "kill once", "ok", "kill once", "ok", concurrency=2).go()
    assert run.summary == (5, 0, 2, False)
    assert sorted(run.written()) == [f"job-{number}" for number in range(5)]
    assert [event.data for event in run.of("died")] == ["was killed by SIGKILL, perhaps for lack of memory"] * 2


def test_a_job_whose_record_is_on_the_disk_is_not_done_again(tmp_path: Path) -> None:
    run = Run(tmp_path, "kill after writing", "ok", "ok", nump=1).go()
    assert run.summary == (3, 0, 1, False)
    assert sorted(run.written()) == ["job-0", "job-1", "job-2"]
    assert [event.job for event in run.of("started")].count("job-0") == 1


def test_a_job_that_kills_its_worker_three_times_is_given_up_without_its_neighbours(tmp_path: Path) -> None:
    run = Run(tmp_path, "ok", "kill", "ok", "ok", "ok", "ok", nump=1, concurrency=6).go()
    assert run.summary == (5, 1, 3, False) and run.summary.exit_code == 1
    reason = "the worker died 3 times on this prompt (the last one was killed by SIGKILL, perhaps for lack of memory)"
    assert run.lost == [("job-1", reason)]
    assert sorted(run.written()) == ["job-0", "job-2", "job-3", "job-4", "job-5"]


def test_a_crash_of_a_worker_that_has_served_is_treated_like_a_kill(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, "raise", "ok", nump=1).go()
    assert run.summary == (1, 1, 3, False)
    assert run.lost == [("job-0", "the worker died 3 times on this prompt (the last one ended with exit code 1)")]
    assert capfd.readouterr().err.count("ValueError: a fault of the worker") == 3


@pytest.mark.parametrize("how", ["fatal", "error"])
def test_a_worker_that_cannot_work_ends_the_run_with_its_message(tmp_path: Path, how: str) -> None:
    run = Run(tmp_path, "ok", "ok", main=unstartable, settings=how, grace_s=0.1)
    with pytest.raises(RainError, match="^unknown model: llama-9$"):
        run.go()


@pytest.mark.parametrize(
    ("how", "reason"), [("exception", "ended with exit code 1"), ("killed", "was killed by SIGKILL")]
)
def test_a_worker_that_dies_before_it_starts_ends_the_run(tmp_path: Path, how: str, reason: str) -> None:
    run = Run(tmp_path, "ok", main=unstartable, settings=how)
    with pytest.raises(RainError, match=f"^worker 0 {reason}.* before it could start; see what it printed above$"):
        run.go()
    assert len(run.of("died")) == (1 if how == "exception" else 3)


def test_a_full_disk_in_a_worker_ends_the_run_and_keeps_what_is_written(tmp_path: Path) -> None:
    run = Run(tmp_path, "ok", "full", "ok", nump=1)
    with pytest.raises(RainError, match="No space left"):
        run.go()
    assert run.written() == ["job-0"]


def test_a_fault_in_a_callback_leaves_no_worker_behind(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail(event: Event) -> None:
        if event.kind == "progress":
            pids.append(os.pidfd_open(event.data["pid"]))
            raise RuntimeError("a fault of the progress bar")

    with pytest.raises(RuntimeError):
        Run(tmp_path, "hang", "hang", nump=1, watch=fail, grace_s=0.1).go()
    await_ends(pids)


def test_two_jobs_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same id"):
        Run(tmp_path, nump=1).pool.run([Job("a"), Job("a")])


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = start(tmp_path, "ok,ok,hang,hang")
    ends = watchers(read_until(parent, "pid", 4))
    parent.kill()
    await_ends(ends)
    parent.communicate()
    again = start(tmp_path, "ok,ok,ok,ok")
    out, err = again.communicate()
    assert (again.returncode, err) == (0, "")
    assert json.loads(out.splitlines()[-1])["done"] == 2
    assert [record["id"] for record in read_results(tmp_path)] == [f"job-{number:04d}" for number in range(4)]


@pytest.mark.parametrize(
    ("payload", "presses", "grace"),
    [
        pytest.param("stop", 1, "3600", id="workers return when asked"),
        pytest.param("hang", 1, "0.2", id="workers that do not return are ended"),
        pytest.param("deaf", 2, "3600", id="the second Ctrl-C ends them at once"),
    ],
)
def test_ctrl_c_ends_a_run_with_130_and_loses_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str, presses: int, grace: str
) -> None:
    monkeypatch.setenv("GRACE_S", grace)
    parent = start(tmp_path, f"ok,ok,{payload},{payload}")
    ends = watchers(read_until(parent, "pid", 4))
    os.killpg(parent.pid, signal.SIGINT)
    if presses == 2:
        read_until(parent, "commit", 2)  # both workers have heard of the first
        os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate()
    assert (parent.returncode, err) == (130, "")
    assert json.loads(out.splitlines()[-1]) == {"done": 2, "failed": 0, "deaths": 0, "interrupted": True}
    await_ends(ends)
    assert [record["id"] for record in read_results(tmp_path)] == ["job-0000", "job-0001"]


def test_ctrl_c_while_workers_start_ends_the_run_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = gate(tmp_path)
    monkeypatch.setenv("IMPORT_GATE", str(tmp_path / "gate"))
    monkeypatch.setenv("GRACE_S", "60")
    parent = start(tmp_path, "ok,ok")
    read_until(parent, "importing", 2)
    os.killpg(parent.pid, signal.SIGINT)
    os.write(way, b"go")
    _, err = parent.communicate()
    os.close(way)
    assert (parent.returncode, err) == (130, "")


def test_the_second_run_in_an_outdir_is_refused(tmp_path: Path) -> None:
    first = start(tmp_path, "hang")
    read_until(first, "pid", 1)
    second = start(tmp_path, "ok")
    assert f"RainError: another run (process {first.pid} on " in second.communicate()[1]
    first.kill()
    first.communicate()


@pytest.mark.parametrize(
    ("nump", "gpus", "expected"),
    [
        (4, "01234567", ["0,1", "2,3", "4,5", "6,7"]),
        (1, "01234567", ["0,1,2,3,4,5,6,7"]),
        (8, "01234567", list("01234567")),
        (3, "01234567", ["0,1", "2,3", "4,5"]),
        (2, "5372", ["5,3", "7,2"]),
    ],
)
def test_gpus_are_split_evenly_and_in_order(nump: int, gpus: str, expected: list[str]) -> None:
    assert [share["CUDA_VISIBLE_DEVICES"] for share in split(nump, list(gpus), 64)] == expected


def test_without_gpus_the_cores_are_shared() -> None:
    assert [split(nump, [], 8)[-1] for nump in (1, 3, 8, 9)] == [{"OMP_NUM_THREADS": n} for n in ("8", "2", "1", "1")]


@pytest.mark.parametrize(
    ("nump", "message"), [(3, "--nump is 3, too many processes for 2 visible GPUs"), (0, "at least 1")]
)
def test_more_processes_than_gpus_or_none_at_all_are_refused(nump: int, message: str) -> None:
    with pytest.raises(RainError, match=message):
        split(nump, ["0", "1"], 4)


@pytest.mark.parametrize(
    ("listed", "gpus"), [("", []), ("-1", []), ("2,0", ["2", "0"]), ("GPU-8f, 1", ["GPU-8f", "1"]), ("1,-1,2", ["1"])]
)
def test_visible_gpus_are_those_that_cuda_would_see(listed: str, gpus: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": listed}) == gpus


@pytest.mark.faults
def test_kills_at_random_moments_leave_every_prompt_exactly_once(tmp_path: Path) -> None:
    seed = 1
    payloads = ",".join(random.Random(seed).choices(["ok", "long", "kill once"], [6, 6, 1], k=300))
    kills = {"workers": 0, "parents": 0}
    code = -signal.SIGKILL
    while code != 0:
        run = start(tmp_path, payloads, 3, 3, seed + kills["parents"], 22)
        out, err = run.communicate()
        code = run.returncode
        assert code in (0, 1, -signal.SIGKILL) and err == "", err  # 1: a prompt was given up, to be tried again
        kills["workers"] += sum(line.startswith("died ") for line in out.splitlines())
        kills["parents"] += code == -signal.SIGKILL
    assert kills["workers"] + kills["parents"] >= 50 and kills["parents"] >= 1, kills
    expected = [f"job-{number:04d}" for number in range(300)]
    lines = [line.record for path in result_paths(tmp_path) for line in scan(path).lines]
    assert sorted(record["id"] for record in lines) == expected
    assert not any("error" in record for record in lines)
