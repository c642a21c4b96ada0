"""Workers as Ray actors, on this machine or on a cluster.

An actor that is lost, alone or with its node, counts as a dead worker: the pool starts another, which Ray places where
there is room, and hands out its prompts again. Nothing that a lost actor reports later is heard, so that no prompt is
recorded twice.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rain.core.errors import RainError
from rain.pool.devices import cpu_cores, visible_gpus
from rain.pool.launchers import ExitStatus, Launcher, WorkerHandle
from rain.pool.ray_worker import RayWorker
from rain.pool.worker import Job, RunEvent, WorkerArgs, WorkerMain
from rain.terminal import say

ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of a Ray of this machine's own: it asks for its token, and without the last, whatever its name says, it
would listen on all interfaces instead of the loopback one. Ray reads it when it is imported."""

_STORE_BYTES = 128 << 20
_NOTICE_S = 60.0
_CONNECT_S = 10.0
_TRIES = 3


def import_ray() -> Any:
    """Return the module ray.

    Raises:
        RainError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RainError(f"--launcher ray needs Ray ({error}); in RAIN's folder: pip install -e '.[ray]'") from error
    return ray


def worker_resources(nump: int, nodes: Sequence[Mapping[str, float]]) -> tuple[dict[str, int], int]:
    """Return what every worker reserves, and how many workers may then share a device's memory, at most (count).

    It is the most GPUs, or without GPUs the most CPUs, that all workers can have alike, each on one node. GPUs come
    with their part of the node's CPUs, and nobody shares them; workers on the CPUs of a node share its memory.

    Args:
        nump: number of workers, at least 1 (count).
        nodes: for each node the number of its "GPU"s and "CPU"s, where it has some (count).

    Raises:
        RainError: there are more workers than GPUs (CPUs).
    """
    kind = "GPU" if any(node.get("GPU", 0) >= 1 for node in nodes) else "CPU"
    counts = [int(node.get(kind, 0)) for node in nodes]
    fitting = (each for each in range(max(counts, default=0), 0, -1) if sum(n // each for n in counts) >= nump)
    each = next(fitting, 0)
    if not each:
        total = sum(counts)
        raise RainError(f"--nump is {nump}, too many workers for the {total} {kind}s of the Ray cluster; use fewer")
    if kind == "CPU":
        return {"num_gpus": 0, "num_cpus": each}, min(nump, max(counts) // each)
    places = [(int(node.get("CPU", 0)), n // each) for node, n in zip(nodes, counts, strict=True)]
    return {"num_gpus": each, "num_cpus": min(cpus // workers for cpus, workers in places if workers)}, 1


class RayHandle(WorkerHandle):
    """A worker in an actor of Ray.

    Attributes:
        news: Ray's reference to what the actor reports next.
        begun: whether the actor has reported anything; until then it may wait for a place.
        since: when it was started (time.monotonic).
    """

    def __init__(self, ray: Any, actor: Any, index: int) -> None:
        self.index = index
        self.begun = False
        self.since = time.monotonic()
        self._ray, self._actor = ray, actor
        self._status: ExitStatus | None = None
        self.news = self._ask()

    def _ask(self) -> Any:
        return self._actor.take.options(concurrency_group="out").remote()

    @property
    def alive(self) -> bool:
        """Whether the actor can be heard."""
        return self._status is None

    def receive(self) -> list[RunEvent]:
        """Return what has come and ask for more; an actor that cannot be heard any more counts as ended."""
        try:
            events: list[RunEvent] = self._ray.get(self.news)
        except self._ray.exceptions.RayError as error:
            self._status = _lost(error)
            return [RunEvent("exit", self.index)]
        self.begun = True
        events.sort(key=lambda event: event.kind == "exit")  # a last sign of life may come after it
        if events and events[-1].kind == "exit":
            self._status = ExitStatus(False, events[-1].data)
        else:
            self.news = self._ask()
        return events

    def send(self, job: Job | None) -> None:
        """Hand over a job, or None; an actor that has not begun has nothing to finish and is ended instead."""
        if job is None and not self.begun:
            self.kill()
        elif self.alive:
            self._actor.put.options(concurrency_group="in").remote(job)

    def terminate(self) -> None:
        """End the actor; Ray knows no milder way."""
        self.kill()

    def kill(self) -> None:
        """End the actor; what it still reports is not heard, so there is nothing to wait for."""
        self._status = self._status or ExitStatus(True, "was killed")
        self._ray.kill(self._actor)

    def exit_status(self) -> ExitStatus:
        """Return how the actor ended."""
        self.kill()
        return self._status or ExitStatus(True, "was killed")


def _lost(error: Exception) -> ExitStatus:
    """Summarise Ray's report, which fills a screen."""
    report = str(error).strip()
    if getattr(error, "actor_init_failed", False):
        return ExitStatus(False, f"could not be created ({report.splitlines()[-1].strip()})")
    if "its node has died" in report:
        return ExitStatus(True, "was lost with its node")
    if "unavailable" in report:
        return ExitStatus(True, "cannot be reached any more")
    return ExitStatus(True, "was killed")


def _check_reachable(address: str) -> None:
    """Raise an OSError if nothing listens at HOST:PORT, where Ray would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


class RayLauncher(Launcher):
    """Starts workers as Ray actors; joins the cluster with the first.

    Args:
        main: the worker's function; rain, and the module of this function, must be installed on every node.
        settings: goes to every worker (picklable).
        nump: number of workers that share the cluster (count).
        address: the cluster; empty: RAY_ADDRESS, or else Ray is started on this machine and ends with `close`.
    """

    def __init__(self, main: WorkerMain, settings: Any, nump: int, address: str = "") -> None:
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        if self._address == "local":
            for name, value in ALONE.items():
                os.environ.setdefault(name, value)
        self._ray = import_ray()
        self._main, self._settings, self._nump = main, settings, nump
        self._resources: dict[str, int] = {}
        self._sharers = 1
        self._joined = False
        self._handles: list[RayHandle] = []
        self._events: deque[RunEvent] = deque()

    def start(self, index: int) -> RayHandle:
        """Start a worker where there is room for it; it waits until there is."""
        if not self._resources:
            self._join()
        groups = {"concurrency_groups": {"in": 1, "out": 1}, "scheduling_strategy": "SPREAD"}
        worker = self._ray.remote(**self._resources, **groups, max_restarts=0)(RayWorker)
        actor = worker.remote(self._main, WorkerArgs(index, self._settings), self._sharers)
        self._handles.append(RayHandle(self._ray, actor, index))
        return self._handles[-1]

    def _join(self) -> None:
        """Connect to the cluster, or start one; a process that has done so already stays where it is."""
        ray = self._ray
        if not ray.is_initialized():
            options: dict[str, Any] = {"address": self._address, "logging_level": "ERROR"}
            if self._address == "local":
                machine = {"num_cpus": cpu_cores(), "num_gpus": len(visible_gpus())}
                options |= {**machine, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
            self._init(options, _TRIES if self._address == "local" else 1)
            self._joined = True
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._resources, self._sharers = worker_resources(self._nump, nodes)

    def _init(self, options: dict[str, Any], tries: int) -> None:
        """Connect or start; Ray gives its own start 30 seconds, which a busy machine may exceed."""
        try:
            _check_reachable(self._address)
            self._ray.init(**options)
        except Exception as error:  # Ray raises errors of every kind here, and Exception itself where it is slow
            self._ray.shutdown()
            if tries > 1:
                return self._init(options, tries - 1)
            reason = str(error).strip().split("\n")[0]
            raise RainError(f"cannot use the Ray cluster {self._address!r}: {reason}; see --ray-address") from error

    def events(self, timeout_s: float) -> Iterator[RunEvent]:
        """Yield what the actors have reported, and the exits of those that were ended."""
        if not self._events:
            self._wait(timeout_s)
        while self._events:
            yield self._events.popleft()

    def _wait(self, timeout_s: float) -> None:
        """Wait for the first report, and take in all that there are."""
        news = [handle.news for handle in self._handles if handle.alive]
        if news:
            everyone = len(news) == len(self._handles)
            self._ray.wait(news, num_returns=1, timeout=timeout_s if everyone else 0)
            news, _ = self._ray.wait(news, num_returns=len(news), timeout=0)
        for handle in self._handles:
            if not handle.alive:  # it was killed
                self._events.append(RunEvent("exit", handle.index))
            elif handle.news in news:
                self._events.extend(handle.receive())
            elif not handle.begun and time.monotonic() - handle.since > _NOTICE_S:
                handle.since = float("inf")
                needs = " and ".join(f"{n} {name[4:-1].upper()}s" for name, n in self._resources.items() if n)
                say(f"rain: worker {handle.index} waits for {needs} on one node of the Ray cluster", sys.stderr)
        self._handles = [handle for handle in self._handles if handle.alive]

    def close(self) -> None:
        """Leave the cluster, if this launcher has joined it; actors that are left end."""
        if self._joined:
            self._ray.shutdown()
            self._joined = False
