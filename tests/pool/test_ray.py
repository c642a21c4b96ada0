"""Workers on a Ray cluster may die, alone or with their node: every job is still recorded once, by the parent."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.pool_workers import Run, gate, obedient, unstartable
from support.ray_nodes import ENVIRONMENT, STORE, Nodes

from rain.core.errors import RainError
from rain.pool.ray_launcher import RayLauncher
from rain.pool.worker import RunEvent, WorkerMain
from rain.results.run_dir import iter_results, result_paths

pytestmark = pytest.mark.ray


def ray_run(
    folder: Path, nodes: Nodes, *payloads: str, main: WorkerMain = obedient, settings: object = "", **options: Any
) -> Run:
    """Return jobs on a cluster, for two workers unless told otherwise."""
    options = {"nump": 2, **options}
    launcher = RayLauncher(main, settings or str(folder), options["nump"], nodes.cluster.address)
    return Run(folder, *payloads, launcher=launcher, **options)


def both_begun(run: Run, event: RunEvent) -> bool:
    """Tell whether with this event two workers have a job."""
    return event.kind == "progress" and len(run.of("progress")) == 2


def test_each_worker_has_a_node_and_its_records_are_written_before_they_count(tmp_path: Path, nodes: Nodes) -> None:
    written: list[bool] = []

    def look(event: RunEvent) -> None:
        if event.kind == "done":
            written.append(event.job in run.written())
        elif both_begun(run, event):
            os.write(way, b"go")

    with gate(tmp_path) as way:
        run = ray_run(tmp_path, nodes.grow(2), *["wait", *["ok"] * 5] * 2, watch=look, concurrency=6)
        assert run.go().summary == (12, 0, 0, False)
    assert run.written() == sorted(job.id for job in run.jobs) and all(written)
    assert {event.data["node"] for event in run.of("progress")} == set(nodes.nodes)
    assert [path.name for path in result_paths(tmp_path)] == ["res_0.jsonl", "res_1.jsonl"]
    assert all(record["raina"].startswith("\ud800") for record in iter_results(tmp_path))


def test_a_worker_whose_node_is_killed_starts_on_another_and_its_jobs_are_done_once(
    tmp_path: Path, nodes: Nodes
) -> None:
    before = set(nodes.grow(2).nodes)

    def disturb(event: RunEvent) -> None:
        if both_begun(run, event):
            nodes.kill(event.data["node"])
            nodes.grow(2)
        elif event.kind == "ready" and len(run.of("ready")) == 3:  # the worker that was started again
            os.write(way, b"g" * 6)

    with gate(tmp_path) as way:
        run = ray_run(tmp_path, nodes, *["wait"] * 6, watch=disturb)
        assert run.go().summary == (6, 0, 1, False)
    assert run.written() == sorted(job.id for job in run.jobs)
    [died] = run.of("died")
    assert died.data in ("was lost with its node", "cannot be reached any more")
    [new] = set(nodes.nodes) - before
    assert new in {event.data["node"] for event in run.of("progress")}
    killed = run.of("progress")[1].job
    assert [event.job for event in run.of("progress")].count(killed) == 2


def test_without_room_for_a_new_worker_the_others_do_its_jobs_and_the_run_ends(tmp_path: Path, nodes: Nodes) -> None:
    nodes.grow(2)

    def disturb(event: RunEvent) -> None:
        if both_begun(run, event):
            nodes.kill(event.data["node"])
        elif event.kind == "died":
            os.write(way, b"go")

    with gate(tmp_path) as way:
        run = ray_run(tmp_path, nodes, "wait", "wait", *["ok"] * 8, watch=disturb, grace_s=3600)
        assert run.go().summary == (10, 0, 1, False)
    assert run.written() == sorted(job.id for job in run.jobs)
    assert len(nodes.nodes) == 1 and len(run.of("ready")) == 2


def test_a_job_that_kills_its_actor_three_times_is_given_up_without_its_neighbours(
    tmp_path: Path, nodes: Nodes
) -> None:
    run = ray_run(tmp_path, nodes.grow(1), "ok", "kill", "ok", "ok", nump=1, concurrency=4)
    assert run.go().summary[:2] == (3, 1)
    [(job, reason)] = run.errors().items()
    assert job == "job-1" and "died 3 times" in reason and "was killed" in reason
    assert run.written() == sorted(job.id for job in run.jobs)


@pytest.mark.parametrize(
    ("main", "settings", "message"),
    [
        (unstartable, "error", "^unknown model: llama-9$"),
        (unstartable, "exception", "worker 0 .*not foreseen.* during start-up"),
        (obedient, "unpicklable", "worker 0 .*No module named 'nowhere'"),
    ],
)
def test_a_worker_that_cannot_work_ends_the_run(
    tmp_path: Path, nodes: Nodes, main: WorkerMain, settings: str, message: str
) -> None:
    run = ray_run(tmp_path, nodes.grow(1), "ok", nump=1, main=main, settings=Absent() if main is obedient else settings)
    with pytest.raises(RainError, match=message):
        run.go()


class Absent:
    """Something that cannot be unpacked, as where rain is not installed."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return __import__, ("nowhere",)


def test_more_workers_than_the_cluster_has_room_for_are_refused(tmp_path: Path, nodes: Nodes) -> None:
    nodes.grow(1)
    with pytest.raises(RainError, match="--nump is 2.* 1 CPUs"):
        ray_run(tmp_path, nodes, "ok", "ok").go()


@pytest.mark.faults
def test_kills_of_actors_and_nodes_at_random_moments_leave_every_job_once(tmp_path: Path, nodes: Nodes) -> None:
    rng = random.Random(7)
    kills = Counter[str]()
    pids: dict[int, tuple[int, int]] = {}
    nodes.grow(3)

    def disturb(event: RunEvent) -> None:
        if event.kind == "progress":
            pids[event.worker] = event.data["pid"], event.data["node"]
        elif event.kind == "died":
            pids.pop(event.worker, None)
        if pids and rng.random() < 1 / 20:
            pid, node = pids.pop(rng.choice(sorted(pids)))
            if kills["nodes"] < 3 and node in nodes.nodes and rng.random() < 0.3:
                kills["nodes"] += 1
                nodes.kill(node)
                nodes.grow(3)
            else:
                kills["actors"] += 1
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    limits = {"concurrency": 3, "max_deaths": 1000, "max_failures": 100}
    run = ray_run(tmp_path, nodes, *["ok"] * 200, nump=3, watch=disturb, **limits)
    summary = run.go().summary
    print("kills:", dict(kills), "deaths:", summary.deaths)
    assert summary[:2] == (200, 0)
    assert run.written() == sorted(job.id for job in run.jobs)
    assert summary.deaths >= 10 and kills["nodes"] >= 1, kills


def test_every_worker_sees_gpus_of_its_own_and_uses_its_part_of_the_cores(
    tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    node = nodes.grow(0).cluster.add_node(num_cpus=4, num_gpus=4, object_store_memory=STORE, env_vars=ENVIRONMENT)

    def open_for_both(event: RunEvent) -> None:
        if both_begun(run, event):
            os.write(way, b"go")

    with gate(tmp_path) as way:
        run = ray_run(tmp_path, nodes, "wait", "wait", watch=open_for_both)
        assert run.go().summary == (2, 0, 0, False)
    nodes.cluster.remove_node(node)
    seen = [event.data["gpus"].split(",") for event in run.of("progress")]
    assert [len(gpus) for gpus in seen] == [2, 2] and sorted(sum(seen, [])) == ["0", "1", "2", "3"]
    assert {event.data["threads"] for event in run.of("progress")} == {"2"}
