"""Workers as Ray actors, on this machine or on a cluster; what they record is written here, so no disk is shared.

An actor that is lost, alone or with its node, counts as a dead worker: the pool starts another, which Ray places where
there is room, and hands out its prompts again. Records arrive in front of the events that speak of them, and those of
a lost actor that have not arrived are never heard of, so that no prompt is recorded twice.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rain.core.errors import RainError
from rain.pool.devices import cpu_cores, visible_gpus
from rain.pool.launchers import End, Launcher, WorkerHandle
from rain.pool.ray_worker import RayWorker, Returned
from rain.pool.worker import Event, Job, WorkerArgs, WorkerMain
from rain.results.jsonl import Record

_STORE_BYTES = 128 << 20
_PATIENCE_S = 60.0
_KNOCK_S = 10.0
WriteRecord = Callable[[int, Record], None]


def import_ray() -> Any:
    """Return the module ray.

    Raises:
        RainError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RainError(f"--launcher ray needs Ray ({error}); install it with: pip install 'rain[ray]'") from error
    return ray


def share(nump: int, nodes: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """Return what every worker reserves: as many GPUs, or without GPUs CPUs, as all workers can have alike.

    A worker's share lies on one node. With GPUs it comes with its part of the node's CPUs.

    Args:
        nump: number of workers (count).
        nodes: for each node the number of its "GPU"s and "CPU"s, where it has some (count).

    Raises:
        RainError: there are fewer than one worker, or more than GPUs (CPUs).
    """
    if nump < 1:
        raise RainError(f"--nump is {nump}; it must be at least 1")
    kind = "GPU" if any(node.get("GPU", 0) >= 1 for node in nodes) else "CPU"
    counts = [int(node.get(kind, 0)) for node in nodes]
    fitting = (each for each in range(max(counts, default=0), 0, -1) if sum(n // each for n in counts) >= nump)
    each = next(fitting, 0)
    if not each:
        total = sum(counts)
        raise RainError(f"--nump is {nump}, too many workers for the {total} {kind}s of the Ray cluster; use fewer")
    if kind == "CPU":
        return {"num_gpus": 0, "num_cpus": each}
    places = [(int(node.get("CPU", 0)), n // each) for node, n in zip(nodes, counts, strict=True)]
    return {"num_gpus": each, "num_cpus": min(cpus // workers for cpus, workers in places if workers)}


class RayHandle(WorkerHandle):
    """A worker in a Ray actor.

    Attributes:
        news: Ray's reference to what the actor tells next.
        begun: whether the actor has told anything; until then it may wait for a place.
    """

    def __init__(self, ray: Any, actor: Any, index: int, write: WriteRecord) -> None:
        self.index = index
        self.begun = False
        self._ray, self._actor, self._write = ray, actor, write
        self._end: End | None = None
        self.news = self._ask()

    def _ask(self) -> Any:
        return self._actor.take.options(concurrency_group="out").remote()

    def send(self, job: Job | None) -> None:
        """Hand over a job, or None; an actor that has not begun has nothing to finish and is ended instead."""
        if job is None and not self.begun:
            self.kill()
        elif self.alive:
            self._actor.put.options(concurrency_group="in").remote(job)

    def receive(self) -> list[Event]:
        """Return the events that are there; write the records that come before them."""
        events: list[Event] = []
        while self.alive and self._ray.wait([self.news], timeout=0)[0]:
            for item in self._get():
                if isinstance(item, Returned):
                    self._end = End(False, item.reason)
                elif item.kind == "record":
                    self._write(self.index, item.data)
                else:
                    events.append(item)
        return events

    def _get(self) -> list[Event | Returned]:
        """Return what has come and ask for more; an actor that cannot be heard any more counts as ended."""
        try:
            news: list[Event | Returned] = self._ray.get(self.news)
            self.news = self._ask()
        except self._ray.exceptions.RayError as error:
            self._end = _lost(error)
            return []
        self.begun = True
        return news

    @property
    def alive(self) -> bool:
        """Whether the actor can be heard."""
        return self._end is None

    def terminate(self) -> None:
        """End the actor; Ray knows no milder way."""
        self.kill()

    def kill(self) -> None:
        """End the actor; what it still tells is not heard, so there is nothing to wait for."""
        self._end = self._end or End(True, "was ended")
        self._ray.kill(self._actor)

    def end(self) -> End:
        """Say how the actor ended."""
        return self._end or End(True, "was ended")


def _lost(error: Exception) -> End:
    """Put Ray's report, which fills a screen, into words."""
    report = str(error).strip()
    if getattr(error, "actor_init_failed", False):
        return End(False, f"could not be made ({report.splitlines()[-1].strip()})")
    if "its node has died" in report:
        return End(True, "was lost with its node")
    if "unavailable" in report:
        return End(True, "cannot be reached any more")
    return End(True, "was killed")


def _knock(address: str) -> None:
    """Raise an OSError if nothing listens at HOST:PORT, where Ray would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


class RayLauncher(Launcher):
    """Starts workers as Ray actors; joins the cluster with the first.

    Args:
        main: the worker's function; rain, and the module of this function, must be installed on every node.
        settings: goes to every worker (picklable).
        nump: number of workers that share the cluster (count).
        write: gets a worker's number and its records, and returns when they are on the disk.
        address: the cluster; empty: RAY_ADDRESS, or else Ray is started on this machine and ends with `close`.
    """

    def __init__(self, main: WorkerMain, settings: Any, nump: int, write: WriteRecord, address: str = "") -> None:
        self._ray = import_ray()
        self._main, self._settings, self._nump, self._write = main, settings, nump, write
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._share: dict[str, int] = {}
        self._joined = False
        self._since: dict[RayHandle, float] = {}

    def start(self, index: int) -> RayHandle:
        """Start a worker where there is room for it; it waits until there is."""
        if not self._share:
            self._join()
        groups = {"concurrency_groups": {"in": 1, "out": 1}, "scheduling_strategy": "SPREAD"}
        worker = self._ray.remote(**self._share, **groups, max_restarts=0)(RayWorker)
        actor = worker.remote(self._main, WorkerArgs(index, self._settings))
        handle = RayHandle(self._ray, actor, index, self._write)
        self._since[handle] = time.monotonic()
        return handle

    def _join(self) -> None:
        """Connect to the cluster, or start one; a process that has done so already stays where it is."""
        ray = self._ray
        if not ray.is_initialized():
            options: dict[str, Any] = {"address": self._address, "logging_level": "ERROR"}
            if self._address == "local":
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                machine = {"num_cpus": cpu_cores(), "num_gpus": len(visible_gpus())}
                options |= {**machine, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
            try:
                _knock(self._address)
                ray.init(**options)
            except Exception as error:  # Ray raises errors of every kind here, and Exception itself where it is slow
                reason = str(error).strip().split("\n")[0]
                raise RainError(f"cannot use the Ray cluster {self._address!r}: {reason}; see --ray-address") from error
            self._joined = True
        self._share = share(self._nump, [node["Resources"] for node in ray.nodes() if node["Alive"]])

    def wait(self, handles: Sequence[WorkerHandle], timeout_s: float) -> None:
        """Wait on what the actors tell next."""
        known = [handle for handle in handles if isinstance(handle, RayHandle)]
        if known and all(handle.alive for handle in known):
            self._ray.wait([handle.news for handle in known], num_returns=1, timeout=timeout_s)
        self._since = {handle: self._since[handle] for handle in known if handle in self._since and not handle.begun}
        for handle in [handle for handle, since in self._since.items() if time.monotonic() - since > _PATIENCE_S]:
            del self._since[handle]
            needs = " and ".join(f"{n} {name[4:-1].upper()}s" for name, n in self._share.items() if n)
            print(f"rain: worker {handle.index} waits for {needs} on one node of the Ray cluster", file=sys.stderr)

    def close(self) -> None:
        """Leave the cluster, if this launcher has joined it; actors that are left end."""
        if self._joined:
            self._ray.shutdown()
            self._joined = False
