"""Workers may die at any moment, and so may their parent: every job is still done once, and nobody is left behind."""

from __future__ import annotations

import json
import os
import queue
import random
import re
import select
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import pool_workers
from support.pool_workers import Run, broken, first_without_device, gate, unstartable

from rain.core.errors import RainError, is_broken_device, is_out_of_memory
from rain.pool.devices import visible_gpus, worker_environments
from rain.pool.launchers import ExitStatus, Launcher, WorkerHandle
from rain.pool.worker import Job, RunEvent, WorkerLink
from rain.results.jsonl import PROMPTS_OWN, Record, read_records
from rain.results.run_dir import iter_results, result_paths

SCRIPT = Path(pool_workers.__file__)
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nobody_left_behind() -> Iterator[None]:
    """Leave no process behind, whatever a test finds."""
    yield
    while STARTED:
        process = STARTED.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start a run as a program in a process group of its own."""
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, arguments)]
    pipe = subprocess.PIPE
    STARTED.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
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


def test_every_job_is_done_once_and_each_worker_has_its_variables_before_it_imports(tmp_path: Path) -> None:
    before = os.environ.get("OMP_NUM_THREADS")

    def open_for_both(event: RunEvent) -> None:
        if event.kind == "progress" and len(run.of("progress")) == 2:
            os.write(way, b"go")

    with gate(tmp_path) as way:
        run = Run(tmp_path, *["wait", *["ok"] * 10] * 2, watch=open_for_both, concurrency=100)  # 11 jobs each
        assert run.go().summary == (22, 0, 0, False)
    assert run.summary is not None and run.summary.exit_code == 0
    assert run.written() == sorted(job.id for job in run.jobs)
    assert {(event.data["worker"], event.data["threads"]) for event in run.of("progress")} == {(0, "3"), (1, "4")}
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert [event.kind for event in run.events if event.job == "job-7"] == ["progress", "done"]


def test_no_more_workers_start_than_there_are_jobs_and_none_for_no_jobs(tmp_path: Path) -> None:
    assert len(Run(tmp_path, "ok", nump=3).go().of("ready")) == 1
    assert Run(tmp_path, nump=3).go().summary == (0, 0, 0, False)


def test_a_slow_job_delays_nobody(tmp_path: Path) -> None:
    def open_at_last(event: RunEvent) -> None:
        if event.kind == "done" and len(run.of("done")) == 9:
            os.write(way, b"g")

    with gate(tmp_path) as way:
        run = Run(tmp_path, "wait", *["ok"] * 9, watch=open_at_last)
        assert run.go().summary == (10, 0, 0, False)
    assert run.of("done")[-1].job == "job-0"


def test_a_record_is_on_disk_before_its_job_counts_as_done(tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(event: RunEvent) -> None:
        if event.kind in ("done", "failed"):
            seen.append(event.job in run.written())

    run = Run(tmp_path, "ok", "kill", "ok", nump=1, watch=look)
    assert run.go().summary == (2, 1, 3, False)
    assert seen == [True] * 3


def test_a_slow_disk_does_not_keep_workers_from_sending(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sent")
    sent = os.open(tmp_path / "sent", os.O_RDWR)

    def wait_for_all(record: Record) -> None:
        if record["id"] == "job-0":  # the worker is done with all, though not even the first is written
            for _ in range(4):
                assert select.select([sent], [], [], 30)[0], "the worker is waiting for its parent"
                os.read(sent, 1)

    run = Run(tmp_path, *["huge"] * 4, nump=1, concurrency=4, before_write=wait_for_all)
    assert run.go().summary == (4, 0, 0, False)
    os.close(sent)


def test_a_worker_that_stops_in_the_middle_of_a_message_delays_nobody(tmp_path: Path) -> None:
    def finish(event: RunEvent) -> None:
        if len(run.of("done")) == 5:
            raise KeyboardInterrupt

    run = Run(tmp_path, "half", *["ok"] * 5, watch=finish, grace_s=0.1)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert run.written() == [f"job-{number}" for number in range(1, 6)]


class Bench(Launcher, WorkerHandle):
    """A worker without a process; it finishes its oldest job when nothing else happens."""

    index = 0

    def __init__(self) -> None:
        self.jobs: deque[str] = deque()
        self.most = 0
        self.exited = False

    def start(self, index: int) -> WorkerHandle:
        self.waiting = [RunEvent("ready", 0)]
        return self

    def events(self, timeout_s: float) -> Iterator[RunEvent]:
        self.most = max(self.most, len(self.jobs))
        if not self.waiting:
            job = self.jobs.popleft()
            self.waiting.append(RunEvent("record", 0, job, {"id": job}))
        yield self.waiting.pop()

    def send(self, job: Job | None) -> None:
        if job is None:
            self.waiting.append(RunEvent("exit", 0))
        else:
            self.jobs.append(job.id)

    def terminate(self) -> None: ...

    kill = terminate

    def exit_status(self) -> ExitStatus:
        return ExitStatus(False, "exited with code 0")


@pytest.mark.parametrize(("concurrency", "jobs", "most"), [(3, 8, 3), (1, 2, 1), (10, 4, 4)])
def test_a_worker_has_as_many_jobs_as_its_concurrency_and_no_more(
    tmp_path: Path, concurrency: int, jobs: int, most: int
) -> None:
    bench = Bench()
    run = Run(tmp_path, *["ok"] * jobs, nump=1, concurrency=concurrency, launcher=bench)
    assert run.go().summary == (jobs, 0, 0, False)
    assert bench.most == most


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("kill once", "^was killed by SIGKILL"),
        ("server once", r"^failed \(server http://x is gone\)$"),
        ("suspend once", r"^gave no sign of life for 3 s \(--stall-timeout\)"),
    ],
)
def test_a_worker_that_is_lost_is_replaced_and_its_jobs_are_done_once(
    tmp_path: Path, payload: str, reason: str
) -> None:
    run = Run(tmp_path, "ok", payload, "ok", payload, "ok", nump=1, pause_s=0.0, stall_s=3.0).go()
    assert run.summary == (5, 0, 2, False) and not run.errors()
    assert run.written() == [f"job-{number}" for number in range(5)]
    assert all(re.search(reason, event.data) for event in run.of("died"))


def test_a_job_whose_record_was_sent_before_its_worker_died_is_not_done_again(tmp_path: Path) -> None:
    run = Run(tmp_path, "kill after sending", "ok", "ok", nump=1).go()
    assert run.summary == (3, 0, 1, False)
    assert run.written() == ["job-0", "job-1", "job-2"]
    assert sorted(event.job for event in run.of("progress")) == ["job-0", "job-1", "job-2"]


@pytest.mark.parametrize(
    ("payload", "reason", "printed"),
    [
        ("kill", "SIGKILL", 0),
        ("raise", "ValueError: a fault of the worker", 3),
        ("nan", "ValueError: Out of range float", 3),
        ("fault", "KeyError: 'a fault'", 0),
    ],
)
def test_a_job_that_ends_its_worker_three_times_is_given_up_without_its_neighbours(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], payload: str, reason: str, printed: int
) -> None:
    run = Run(tmp_path, "ok", payload, *["ok"] * 4, nump=1, concurrency=6).go()
    assert run.summary is not None and run.summary[:2] == (5, 1) and run.summary.exit_code == 1
    assert run.written() == [f"job-{number}" for number in range(6)]
    [(job, error)] = run.errors().items()
    assert job == "job-1" and "died 3 times" in error and reason in error
    assert [record["id"] for _, record in read_records(tmp_path / "res_lost.jsonl")] == ["job-1"]
    assert capfd.readouterr().err.count("\nValueError: ") == printed
    if payload == "fault":
        assert len(run.of("progress")) == 5 + 3, "nobody else is disturbed"


def test_one_refusal_after_the_other_for_the_same_reason_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, *["ok", "refused"] * 4, *["refused"] * 30, nump=1, max_refusals=9)
    with pytest.raises(RainError, match="^9 prompts in a row failed: HTTP 400"):
        run.go()
    assert len(run.of("failed")) == 3 + 9 and len(run.of("done")) == 4


def test_prompts_that_are_wrong_themselves_do_not_end_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, *["wrong"] * 12, "ok", nump=1, max_refusals=9).go()
    assert (run.summary.failed, run.summary.done) == (12, 1) and set(run.errors().values()) == {"HTTP 400"}
    assert not any(PROMPTS_OWN in record for record in iter_results(tmp_path))


@pytest.mark.parametrize(
    ("how", "message", "deaths"),
    [
        ("fatal", "^unknown model: llama-9$", 0),
        ("error", "^unknown model: llama-9$", 0),
        ("exception", "worker 0 .*not foreseen.* during start-up", 1),
        ("killed", "worker 0 .*SIGKILL.* during start-up", 5),
    ],
)
def test_a_worker_that_cannot_start_ends_the_run(tmp_path: Path, how: str, message: str, deaths: int) -> None:
    run = Run(tmp_path, "ok", main=unstartable, settings=how, grace_s=0.1)
    with pytest.raises(RainError, match=message):
        run.go()
    assert len(run.of("died")) == deaths


def test_a_worker_that_breaks_spoils_no_job_and_is_given_up(tmp_path: Path) -> None:
    def first_is_broken(event: RunEvent) -> None:
        if event.kind == "died" and len(run.of("died")) == 5:
            os.write(way, b"g" * 200)  # the sound worker begins once the other one is given up

    options = {"main": broken, "settings": f"{tmp_path}:0"}
    with gate(tmp_path) as way:
        run = Run(tmp_path, *["wait"] * 200, watch=first_is_broken, concurrency=2, **options)
        assert run.go().summary == (200, 0, 5, False)
    assert run.written() == sorted(job.id for job in run.jobs) and not run.errors()
    assert {(event.worker, event.data) for event in run.of("died")} == {(0, "failed (RuntimeError: device lost)")}


def test_when_every_worker_breaks_the_run_ends_with_the_reason_and_no_job_is_spoiled(tmp_path: Path) -> None:
    run = Run(tmp_path, *["ok"] * 40, main=broken, concurrency=4, settings=f"{tmp_path}:01")
    with pytest.raises(RainError, match=r"no worker can continue: worker . failed \(RuntimeError: device lost\)"):
        run.go()
    assert not run.errors() and len(run.of("died")) == 10
    assert Run(tmp_path, *["ok"] * 40).go().summary == (40, 0, 0, False)


@pytest.mark.parametrize(
    ("payload", "reason"), [("server", r"server http://x is gone\)"), ("device", "RuntimeError: CUDA error: .*")]
)
def test_a_server_that_stays_away_and_a_device_that_has_failed_end_the_run_and_spoil_no_prompt(
    tmp_path: Path, payload: str, reason: str
) -> None:
    run = Run(tmp_path, "ok", *[payload] * 9, nump=1, pause_s=0.0, concurrency=3)
    with pytest.raises(RainError, match=rf"no worker .*: worker 0 failed \({reason} \(failures in a row: 5\)"):
        run.go()
    assert run.written() == ["job-0"] and not run.errors()


def test_a_worker_gives_signs_of_life_while_it_loads() -> None:
    sent: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()
    link = WorkerLink(SimpleNamespace(send=sent.put, recv=threading.Event().wait), 0)
    assert [sent.get(timeout=30).kind for _ in range(3)] == ["alive"] * 3
    link.ready()


def test_ctrl_c_reaches_what_a_worker_has_started_but_not_the_worker(tmp_path: Path) -> None:
    [event] = Run(tmp_path, "signals", nump=1).go().of("progress")[1:]
    assert event.data == {"SigBlk": False, "SigIgn": False}


def test_a_full_disk_ends_the_run_and_keeps_what_is_written(tmp_path: Path) -> None:
    def fill_up(record: Record) -> None:
        if run.written():
            raise RainError("No space left")

    run = Run(tmp_path, "ok", "ok", "ok", nump=1, before_write=fill_up)
    with pytest.raises(RainError, match="No space left"):
        run.go()
    assert run.written() == ["job-0"]


def test_a_fault_in_a_callback_leaves_no_worker_behind(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail(event: RunEvent) -> None:
        if event.kind == "progress":
            pids.append(os.pidfd_open(event.data["pid"]))
            raise RuntimeError("a fault of the progress bar")

    with pytest.raises(RuntimeError):
        Run(tmp_path, "hang", "hang", nump=1, watch=fail, grace_s=0.1).go()
    await_ends(pids)


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
    assert [record["id"] for record in iter_results(tmp_path)] == [f"job-{number}" for number in range(4)]


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
        read_until(parent, "progress", 2)  # both workers have heard of the first
        os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate()
    assert (parent.returncode, err) == (130, "")
    assert json.loads(out.splitlines()[-1]) == {"done": 2, "failed": 0, "deaths": 0, "interrupted": True}
    await_ends(ends)
    assert [record["id"] for record in iter_results(tmp_path)] == ["job-0", "job-1"]


def test_ctrl_c_while_workers_start_ends_the_run_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_GATE", str(tmp_path / "gate"))
    monkeypatch.setenv("GRACE_S", "60")
    with gate(tmp_path) as way:
        parent = start(tmp_path, "ok,ok")
        read_until(parent, "importing", 2)
        os.killpg(parent.pid, signal.SIGINT)
        os.write(way, b"go")
        _, err = parent.communicate()
    assert (parent.returncode, err) == (130, "")


@pytest.mark.parametrize(
    ("nump", "gpus", "share", "expected", "sharers"),
    [
        (4, "01234567", 1, ["0,1", "2,3", "4,5", "6,7"], [1] * 4),
        (1, "01234567", 1, ["0,1,2,3,4,5,6,7"], [1]),
        (8, "01234567", 1, list("01234567"), [1] * 8),
        (3, "01234567", 1, ["0,1", "2,3", "4,5"], [1] * 3),
        (2, "5372", 1, ["5,3", "7,2"], [1, 1]),
        (1, "01", 2, ["0,1"], [1]),
        (2, "01", 2, ["0", "1"], [1, 1]),
        (3, "01", 2, ["0", "0", "1"], [2, 2, 1]),
        (4, "01", 2, ["0", "0", "1", "1"], [2] * 4),
    ],
)
def test_gpus_are_shared_evenly_and_in_order_and_workers_on_one_gpu_share_its_memory(
    nump: int, gpus: str, share: int, expected: list[str], sharers: list[int]
) -> None:
    found = worker_environments(nump, list(gpus), 64, share)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == expected
    assert [int(each["RAIN_MEMORY_SHARERS"]) for each in found] == sharers


@pytest.mark.parametrize(("listed", "order"), [(None, "PCI_BUS_ID"), ("1", None)])
def test_numbers_of_gpus_count_in_the_order_of_who_gave_them(
    listed: str | None, order: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert worker_environments(1, ["1"], 8)[0].get("CUDA_DEVICE_ORDER") == order


def test_without_gpus_the_cores_and_the_memory_are_shared() -> None:
    found = [worker_environments(nump, [], 8)[-1] for nump in (1, 3, 8, 9)]
    assert [each["OMP_NUM_THREADS"] for each in found] == ["8", "2", "1", "1"]
    assert [each["RAIN_MEMORY_SHARERS"] for each in found] == ["1", "3", "8", "9"]


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(RainError, match="--nump is 3.* 2 visible GPUs"):
        worker_environments(3, ["0", "1"], 4)
    with pytest.raises(RainError, match="--nump is 7.* --gpu-share 3; use at most 6"):
        worker_environments(7, ["0", "1"], 4, share=3)


@pytest.mark.parametrize(
    ("error", "broken", "out_of_memory"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True, False),
        (RuntimeError("CUDA error: out of memory"), False, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), False, True),
        (torch.OutOfMemoryError(), False, True),
        (RuntimeError("shapes differ"), False, False),
        (RainError("out of memory with a single token"), False, False),
    ],
)
def test_an_error_of_the_device_itself_is_told_from_memory_that_ran_out(
    error: Exception, broken: bool, out_of_memory: bool
) -> None:
    assert (is_broken_device(error), is_out_of_memory(error)) == (broken, out_of_memory)


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access was encountered", "CUDA out of memory."])
def test_a_device_that_fails_a_worker_at_its_start_does_not_end_the_run(tmp_path: Path, said: str) -> None:
    settings = f"{tmp_path}:{said}"
    run = Run(tmp_path, *["ok"] * 6, main=first_without_device, settings=settings, nump=2, pause_s=0.0).go()
    assert run.summary and run.summary.done == 6
    alone = Run(tmp_path / "alone", "ok", main=first_without_device, settings=settings, nump=1, pause_s=0.0)
    with pytest.raises(RainError, match=r"no worker can continue: worker 0 failed \(.*memory.* during start-up"):
        alone.go()


@pytest.mark.parametrize(
    ("listed", "gpus"), [("", []), ("-1", []), ("2,0", ["2", "0"]), ("GPU-8f, 1", ["GPU-8f", "1"]), ("1,-1,2", ["1"])]
)
def test_visible_gpus_are_those_that_cuda_would_see(
    listed: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == gpus


@pytest.mark.faults
def test_kills_at_random_moments_leave_every_prompt_exactly_once(tmp_path: Path) -> None:
    payloads = ",".join(random.Random(1).choices(["ok", "long", "kill once"], [6, 6, 1], k=300))
    kills = {"workers": 0, "parents": 0}
    code = -signal.SIGKILL
    while code != 0:
        run = start(tmp_path, payloads, 3, 3, 1 + kills["parents"], 11)
        out, err = run.communicate()
        code = run.returncode
        assert code in (0, 1, -signal.SIGKILL), err  # 1: a prompt was given up, to be tried again
        if code != -signal.SIGKILL or "in spawn_main" not in err:  # Python's word on a parent that dies as it starts it
            assert err == ""
        kills["workers"] += sum(line.startswith("died ") for line in out.splitlines())
        kills["parents"] += code == -signal.SIGKILL
    assert kills["workers"] + kills["parents"] >= 50 and kills["parents"] >= 1, kills
    records = [record for path in result_paths(tmp_path) for _, record in read_records(path)]
    answered = sorted(record["id"] for record in records if "error" not in record)
    assert answered == sorted(f"job-{number}" for number in range(300))
    given_up = [record["error"] for record in records if "error" in record]
    assert all("died 3 times" in error for error in given_up) and len(given_up) < 5
