"""The allocation command on Ray: lost nodes, no shared disk, Ctrl-C; the results are those of workers without Ray."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.commands import ROOT, save_questions
from support.ray_nodes import Nodes, children, command

from rain.results.jsonl import read_records
from rain.results.run_dir import iter_results, result_paths
from rain.trace import Tree, read
from rain.trace.record import trace_file

pytestmark = pytest.mark.ray

RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # outlive a killed node for a while; they do no work
TOY = ("--engine", "toy", "--max-new-tokens", "12", "--max-simulations", "4", "--concurrency", "2")


def start(*arguments: object, before: tuple[str, ...] = (), cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Start the allocation command in a process group of its own."""
    words = [*before, sys.executable, "-u", str(ROOT / "HH" / "allocation.py"), *TOY, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, **options, start_new_session=True, env=env, cwd=cwd)


def read_commits(process: subprocess.Popen[str], count: int) -> None:
    """Read what a verbose run prints until it has committed so often."""
    assert process.stdout is not None
    lines: list[str] = []
    while sum("[hh-" in line for line in lines) < count:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)


def answers(outdir: Path) -> list[tuple[Any, ...]]:
    """Return what does not depend on time, one for each line of the result files, by id."""
    records = [record for path in result_paths(outdir) for _, record in read_records(path)]
    return sorted((record["id"], record["raina"], record["pa"], str(record["moves"])) for record in records)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Any, ...]]]:
    """Return a data set, and what workers without Ray answer."""
    folder = tmp_path_factory.mktemp("local")
    prompts = save_questions(folder / "prompts.jsonl", [f"Question {i}?" for i in range(60)])
    run = start("--dataset", prompts, "--outdir", folder / "out")
    assert run.communicate()[1] is None and run.returncode == 0
    return prompts, answers(folder / "out")


def test_the_command_survives_a_lost_node_and_answers_as_without_ray(
    tmp_path: Path, nodes: Nodes, local: tuple[Path, list[tuple[Any, ...]]]
) -> None:
    prompts, expected = local
    nodes.grow(3)
    options = ("--launcher", "ray", "--ray-address", nodes.cluster.address, "--nump", 3, "--verbose")
    run = start("--dataset", prompts, "--outdir", "out", *options, cwd=tmp_path)
    read_commits(run, 12)
    nodes.kill(nodes.busy(tmp_path))
    nodes.grow(3)
    out, _ = run.communicate()
    assert run.returncode == 0, out
    assert "its prompts will be retried" in out
    assert answers(tmp_path / "out") == expected
    assert len(expected) == 60


def test_workers_need_no_disk_of_the_command(
    tmp_path: Path, nodes: Nodes, local: tuple[Path, list[tuple[Any, ...]]]
) -> None:
    """The command sees a folder that nobody else does: with its template, its data, its results and its traces."""
    private = ("unshare", "--mount", "--map-root-user", "sh", "-c")
    if subprocess.run([*private, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("this machine permits no private mounts")
    prompts, expected = local
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    template = ROOT / "HH" / "templates" / "harmless_letters.txt"
    begin = f"mount -t tmpfs none {hidden}; cp {template} {prompts} {hidden}; " + '"$@"; code=$?; '
    script = begin + f"cp -r {hidden}/out {tmp_path}/out; exit $code"
    options = ("--launcher", "ray", "--ray-address", nodes.grow(2).cluster.address, "--nump", 2, "--trace")
    run = start(
        *("--dataset", hidden / prompts.name, "--outdir", hidden / "out", "--templates", hidden / template.name),
        *options,
        before=(*private, script, "sh"),
    )
    out, _ = run.communicate()
    assert run.returncode == 0, out
    assert not list(hidden.iterdir())
    assert answers(tmp_path / "out") == expected
    for record in iter_results(tmp_path / "out"):
        events = read(trace_file(tmp_path / "out" / "trace", record["id"])).events
        assert Tree(events).simulations == sum(move["simulations"] for move in record["moves"])


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process accepts connections, as /proc has them."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]": row[1].partition(":")[0] for row in rows if row[3] == "0A"}
    files = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]
    return {sockets[file] for file in files if file in sockets}


def test_a_ray_of_this_machines_own_listens_on_the_loopback_interface_only(
    tmp_path: Path, local: tuple[Path, list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = start("--dataset", local[0], "--outdir", tmp_path, "--launcher", "ray", "--verbose")
    read_commits(run, 1)
    found: set[str] = set()
    for pid in [run.pid, *descendants(run.pid)]:
        with suppress(OSError):
            found |= listening(pid)
    assert found and found <= set(LOOPBACK)
    assert run.communicate()[1] is None and run.returncode == 0


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_on_this_machine_that_is_stopped_leaves_nobody_behind_and_can_be_resumed(
    tmp_path: Path, local: tuple[Path, list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch, how: int, code: int
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    prompts, expected = local
    arguments = ("--dataset", prompts, "--outdir", tmp_path, "--launcher", "ray", "--verbose")
    run = start(*arguments)
    read_commits(run, 12)
    family = {os.pidfd_open(pid): command(pid) for pid in descendants(run.pid)}
    os.killpg(run.pid, how) if how == signal.SIGINT else run.kill()
    out, _ = run.communicate()
    assert run.returncode == code, out
    assert "Traceback" not in out
    for process, name in family.items():
        if how == signal.SIGKILL and name.startswith(RAYS_OWN):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        assert select.select([process], [], [], 60)[0], f"{name} was left behind"
        os.close(process)
    some = len(list(iter_results(tmp_path)))
    assert 0 < some < 60
    again = start(*arguments)
    out, _ = again.communicate()
    assert again.returncode == 0 and f"{some} of 60 prompts are done already" in out, out
    assert answers(tmp_path) == expected
