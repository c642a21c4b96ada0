"""The parts of the Ray launcher that need no Ray: shares, what travels, what an actor tells, what is refused."""

from __future__ import annotations

import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.data.readers import HH
from rain.evaluators.templates import load_prompt, load_template
from rain.launch import main
from rain.pool.ray_launcher import share
from rain.pool.ray_worker import RayWorker, Returned
from rain.pool.remote import Parcel, ResultFiles
from rain.pool.worker import Event, Job, WorkerArgs, WorkerLink
from rain.results.run_dir import OutDir, read_results
from rain.settings import Settings, make_settings
from rain.tasks.task import Task

ROOT = Path(__file__).resolve().parents[1]


def hh(folder: Path, **given: object) -> Settings:
    """Return settings of HH, whose files lie in a folder."""
    task = Task("hh", folder, HH, "demo.jsonl", RainConfig(), "templates/harmless_letters.txt")
    return make_settings(task, {"engine": "toy", **given})


@pytest.mark.parametrize(
    ("nump", "nodes", "expected"),
    [
        (4, [{"GPU": 8, "CPU": 64}], {"num_gpus": 2, "num_cpus": 16}),
        (1, [{"GPU": 4, "CPU": 8}] * 2, {"num_gpus": 4, "num_cpus": 8}),  # a worker cannot lie on two nodes
        (3, [{"GPU": 4, "CPU": 8}] * 2, {"num_gpus": 2, "num_cpus": 4}),
        (5, [{"GPU": 8, "CPU": 8}, {"GPU": 4, "CPU": 2}], {"num_gpus": 2, "num_cpus": 1}),
        (8, [{"GPU": 8, "CPU": 4}], {"num_gpus": 1, "num_cpus": 0}),
        (1, [{"CPU": 96}, {"GPU": 1, "CPU": 2}], {"num_gpus": 1, "num_cpus": 2}),  # a head without GPUs does nothing
        (2, [{"CPU": 0}, {"CPU": 7}], {"num_gpus": 0, "num_cpus": 3}),
    ],
)
def test_workers_share_a_cluster_alike_and_each_fits_on_a_node(
    nump: int, nodes: list[dict[str, float]], expected: dict[str, int]
) -> None:
    assert share(nump, nodes) == expected


@pytest.mark.parametrize(("nump", "message"), [(4, "too many workers for the 3 GPUs"), (0, "it must be at least 1")])
def test_more_workers_than_gpus_of_the_cluster_or_none_are_refused(nump: int, message: str) -> None:
    with pytest.raises(RainError, match=message):
        share(nump, [{"GPU": 1, "CPU": 64}, {"GPU": 2, "CPU": 64}])


def test_settings_travel_with_the_files_that_they_name(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(ROOT / "HH", here)
    settings = hh(here, seed=7)
    before = load_template(settings.template_path()), load_prompt(settings.task.path(settings.task.prompt))
    parcel = pickle.loads(pickle.dumps(Parcel.of(settings)))
    shutil.rmtree(here)
    there.mkdir()
    unpacked: Settings = parcel.unpack(there)
    template = load_template(unpacked.template_path())
    assert replace(template, path=before[0].path) == before[0] and template.path.name == before[0].path.name
    assert load_prompt(unpacked.task.path(unpacked.task.prompt)) == before[1]
    assert unpacked.run.seed == 7 and unpacked.engine == settings.engine


def test_an_actor_tells_everything_in_order_and_at_last_how_it_ended() -> None:
    def main(args: WorkerArgs, link: WorkerLink) -> None:
        link.ready()
        while (job := link.receive()) is not None:
            link.record(job.id, {"id": job.id})
            link.done(job.id)

    worker = RayWorker(main, WorkerArgs(3))
    news = worker.take()
    for job in (Job("a"), Job("b"), None):
        worker.put(job)
    while not isinstance(news[-1], Returned):
        news += worker.take()
    told = [(event.kind, event.worker, event.job) for event in news[:-1] if isinstance(event, Event)]
    expected = [("ready", 3, ""), *((kind, 3, job) for job in "ab" for kind in ("record", "done"))]
    assert told == expected and news[-1] == Returned("ended with exit code 0")


def test_an_actor_that_has_nothing_to_tell_says_so_after_a_while() -> None:
    assert RayWorker(lambda args, link: link.receive() and None, WorkerArgs(0)).take() == []


@pytest.mark.parametrize(
    ("error", "last"), [(RainError("no model"), "fatal"), (ValueError("a fault"), "ended with exit code 1")]
)
def test_an_actor_tells_why_its_worker_could_not_go_on(
    error: Exception, last: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def main(args: WorkerArgs, link: WorkerLink) -> None:
        raise error

    worker = RayWorker(main, WorkerArgs(0))
    news = worker.take()
    while not isinstance(news[-1], Returned):
        news += worker.take()
    if last == "fatal":
        assert news[0] == Event("fatal", 0, data="no model")
    else:
        assert news == [Returned(last)] and "ValueError: a fault" in capfd.readouterr().err


def test_one_process_writes_the_files_of_all_workers(tmp_path: Path) -> None:
    with OutDir(tmp_path, {"task": "hh"}) as outdir:
        with ResultFiles(outdir) as files:
            for number in range(6):
                files.write(number % 2, {"id": f"p-{number}"})
            assert outdir.done_ids() == {f"p-{number}" for number in range(6)}  # before they are closed
        with ResultFiles(outdir) as files:
            files.write(1, {"id": "p-6"})
    assert [len((tmp_path / f"res_{i}.jsonl").read_text().splitlines()) for i in (0, 1)] == [3, 4]
    assert len(read_results(tmp_path)) == 7


@pytest.mark.parametrize("error", [Exception("The node timed out.\nMore."), ConnectionError("The node timed out.")])
def test_a_cluster_that_does_not_start_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def init(**options: object) -> None:
        assert options["address"] == "local" and options["num_cpus"]
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    task = hh(ROOT / "HH").task
    assert main(task, ["--engine", "toy", "--outdir", str(tmp_path / "out"), "--launcher", "ray"]) == 2
    message = "rain: error: cannot use the Ray cluster 'local': The node timed out.; see --ray-address\n"
    assert capsys.readouterr().err.endswith(message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--launcher", "ray"],
            "--launcher ray needs Ray (import of ray halted; None in sys.modules); install",
        ),
        (["--launcher", "slurm"], "--launcher is 'slurm'; it must be local or ray"),
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
    assert main(hh(ROOT / "HH").task, ["--engine", "toy", "--outdir", str(outdir), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not outdir.exists()
