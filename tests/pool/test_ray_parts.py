"""The parts of the Ray launcher that need no Ray: shares, what travels, what an actor reports, what is refused."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.pipes import unread

from rain.core.errors import RainError
from rain.launch import main
from rain.pool import ray_launcher
from rain.pool.ray_launcher import worker_resources
from rain.pool.ray_worker import RayWorker
from rain.pool.worker import Job, RunEvent, WorkerArgs, WorkerLink
from rain.tasks import load


@pytest.mark.parametrize(
    ("nump", "nodes", "gpus", "cpus", "sharers"),
    [
        (4, [{"GPU": 8, "CPU": 64}], 2, 16, 1),
        (1, [{"GPU": 4, "CPU": 8}] * 2, 4, 8, 1),  # a worker cannot lie on two nodes
        (3, [{"GPU": 4, "CPU": 8}] * 2, 2, 4, 1),
        (5, [{"GPU": 8, "CPU": 8}, {"GPU": 4, "CPU": 2}], 2, 1, 1),
        (8, [{"GPU": 8, "CPU": 4}], 1, 0, 1),
        (1, [{"CPU": 96}, {"GPU": 1, "CPU": 2}], 1, 2, 1),  # a head without GPUs does nothing
        (2, [{"CPU": 0}, {"CPU": 7}], 0, 3, 2),
        (3, [{"CPU": 4}, {"CPU": 8}], 0, 4, 2),
    ],
)
def test_workers_share_a_cluster_alike_each_fits_on_a_node_and_there_they_share_memory_but_no_gpu(
    nump: int, nodes: list[dict[str, float]], gpus: int, cpus: int, sharers: int
) -> None:
    assert worker_resources(nump, nodes) == ({"num_gpus": gpus, "num_cpus": cpus}, sharers)


def test_an_actor_tells_its_worker_how_many_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIN_MEMORY_SHARERS", "1")
    found: list[str] = []
    reports(RayWorker(lambda args, link: found.append(os.environ["RAIN_MEMORY_SHARERS"]), WorkerArgs(0), 5))
    assert found == ["5"]


def test_more_workers_than_gpus_of_the_cluster_are_refused() -> None:
    with pytest.raises(RainError, match="--nump is 4.* 3 GPUs"):
        worker_resources(4, [{"GPU": 1, "CPU": 64}, {"GPU": 2, "CPU": 64}])


def reports(worker: RayWorker) -> list[RunEvent]:
    """Take what an actor reports up to its exit, without signs of life."""
    events = worker.take()
    while not any(event.kind == "exit" for event in events):
        events += worker.take()
    return [event for event in events if event.kind != "alive"]


def test_an_actor_reports_everything_in_order_and_at_last_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(args: WorkerArgs, link: WorkerLink) -> None:
        link.ready()
        while (job := link.receive()) is not None:
            link.progress(job.id, os.getcwd())
            link.record(job.id, {"id": job.id})

    monkeypatch.chdir(Path(__file__).parent)
    worker = RayWorker(main, WorkerArgs(3, folder=str(tmp_path)))
    for job in (Job("a"), Job("b"), None):
        worker.put(job)
    each = [(kind, job, data) for job in "ab" for kind, data in (("progress", str(tmp_path)), ("record", {"id": job}))]
    expected = [("ready", "", None), *each, ("exit", "", "exited with code 0")]
    assert reports(worker) == [RunEvent(kind, 3, job, data) for kind, job, data in expected]


def test_an_actor_that_has_nothing_to_report_says_so_after_a_while() -> None:
    def main(args: WorkerArgs, link: WorkerLink) -> None:
        link.ready()
        link.receive()

    worker = RayWorker(main, WorkerArgs(0))
    while events := worker.take():
        assert {event.kind for event in events} <= {"alive", "ready"}


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (RainError("no model"), RunEvent("fatal", 0, data="no model"), 0),
        (ValueError("a fault"), RunEvent("fault", 0, data=("failed (ValueError: a fault)", False)), 1),
    ],
)
def test_an_actor_reports_why_its_worker_could_not_continue(
    error: Exception, said: RunEvent, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def main(args: WorkerArgs, link: WorkerLink) -> None:
        raise error

    assert reports(RayWorker(main, WorkerArgs(0))) == [said, RunEvent("exit", 0, data=f"exited with code {code}")]
    assert ("ValueError: a fault" in capfd.readouterr().err) == bool(code)


@pytest.mark.parametrize("error", [Exception("The node timed out.\nMore."), ConnectionError("The node timed out.")])
def test_a_cluster_that_does_not_start_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def init(**options: object) -> None:
        assert options["address"] == "local"
        assert options["num_cpus"]
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=list))
    assert main(load("hh"), ["--engine", "toy", "--outdir", str(tmp_path / "out"), "--launcher", "ray"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rain: error: ") and "Ray cluster 'local'" in last and "The node timed out." in last


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--launcher", "ray"], "--launcher ray needs Ray"),
        (["--launcher", "slurm"], "--launcher is 'slurm'"),
        (["--ray-address", "auto"], "--ray-address needs --launcher ray"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outdir = tmp_path / "out"
    assert main(load("hh"), ["--engine", "toy", "--outdir", str(outdir), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not outdir.exists()


@pytest.mark.parametrize(("address", "failures", "tries"), [("local", 2, 3), ("local", 3, 3), ("127.0.0.1:1", 1, 0)])
def test_a_start_of_ray_that_takes_too_long_is_tried_again_but_a_cluster_is_not(
    address: str, failures: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def init(**options: object) -> None:
        calls.append("init")
        if calls.count("init") <= failures:
            raise Exception("The current node timed out during startup.")

    nodes = [{"Alive": True, "Resources": {"CPU": 2}}]
    fake = SimpleNamespace(
        init=init, is_initialized=lambda: False, nodes=lambda: nodes, shutdown=lambda: calls.append("shutdown")
    )
    monkeypatch.setattr(ray_launcher, "import_ray", lambda: fake)
    launcher = ray_launcher.RayLauncher(print, None, 1, address)
    if failures < 3 and address == "local":
        launcher._join()
    else:
        with pytest.raises(RainError, match="--ray-address"):
            launcher._join()
    assert calls.count("init") == tries
    assert calls.count("shutdown") == failures


def test_a_worker_without_a_place_is_waited_for_when_nobody_reads_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(wait=lambda news, **options: ([], news))
    monkeypatch.setattr(ray_launcher, "import_ray", lambda: fake)
    launcher = ray_launcher.RayLauncher(print, None, 1, "127.0.0.1:1")
    waiting = SimpleNamespace(index=0, alive=True, begun=False, since=-float("inf"), news=None)
    monkeypatch.setattr(launcher, "_handles", [waiting])
    with unread() as stream, redirect_stderr(stream):
        assert list(launcher.events(0)) == []
    assert waiting.since == float("inf")
