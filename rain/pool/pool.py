"""A supervised pool: hands jobs to workers that ask for them, replaces workers that die, and does every job once."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rain.core.errors import RainError
from rain.pool.launchers import Launcher, WorkerHandle
from rain.pool.worker import Event, Job
from rain.results.jsonl import Record

_TICK_S = 0.2
_TERMINATE_S = 2.0

Write = Callable[[int | str, Record], None]


@dataclass(frozen=True)
class PoolConfig:
    """How many workers a pool has, and how patient it is.

    Attributes:
        nump: number of workers, at most one per job (count).
        concurrency: maximum jobs in progress on one worker (count).
        max_deaths: deaths of its worker after which a job is given up (count).
        max_starts: attempts to start a worker that is killed before it gets a job, after which the run ends (count).
        grace_s: time that workers have to return when they are asked to (seconds).
    """

    nump: int = 1
    concurrency: int = 1
    max_deaths: int = 3
    max_starts: int = 3
    grace_s: float = 10.0


class PoolSummary(NamedTuple):
    """How a run went: jobs done, jobs that failed, workers that died (counts), and whether the user stopped it."""

    done: int
    failed: int
    deaths: int
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 if a job failed, else 0."""
        return 130 if self.interrupted else int(self.failed > 0)


@dataclass(slots=True)
class _Slot:
    """A worker.

    Attributes:
        handle: to the worker.
        ready: whether it takes jobs.
        jobs: its jobs in progress, by id.
        served: whether it ever had a job.
    """

    handle: WorkerHandle
    ready: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    served: bool = False


class Pool:
    """Runs jobs on workers that may die at any moment.

    Jobs are handed out as workers finish others, so a slow job delays nobody. Only this process writes records, so the
    jobs of a dead worker whose records have not arrived are not done; they go to other workers. A job whose worker died
    `max_deaths - 1` times runs alone from then on, so that no neighbour is blamed for it, and is given up at the next
    death.

    Args:
        launcher: starts the workers.
        config: numbers and times.
        write: gets a worker's number ("lost": of jobs that were given up) and a record; returns when it is on disk.
        error_record: makes the record of a job that was given up from the job and the reason.
        on_event: gets everything that happens, in the parent's thread.
    """

    def __init__(
        self,
        launcher: Launcher,
        config: PoolConfig,
        write: Write,
        error_record: Callable[[Job, str], Record],
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.config = config
        self._launcher = launcher
        self._write = write
        self._error_record = error_record
        self._on_event = on_event
        self._slots: dict[int, _Slot] = {}
        self._queue: deque[Job] = deque()
        self._quarantine: deque[Job] = deque()
        self._deaths: Counter[str] = Counter()
        self._failed_starts: Counter[int] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._interrupts = self._nump = 0

    def run(self, jobs: Sequence[Job]) -> PoolSummary:
        """Do all jobs; a pool runs once.

        The first Ctrl-C asks the workers to return and, after the grace time, ends them; the second ends them at once.
        Jobs in progress are then not done; nothing that is on disk is lost.

        Raises:
            RainError: a worker could not start or reported that none can continue, or a record could not be written;
                no worker is left running.
        """
        if len({job.id for job in jobs}) < len(jobs):
            raise ValueError("two jobs have the same id")
        self._queue.extend(jobs)
        self._nump = min(self.config.nump, len(jobs))
        with self._interrupts_counted():
            try:
                while self._outstanding() and not self._interrupts:
                    self._start_missing()
                    self._hand_out()
                    self._collect(_TICK_S)
            finally:
                self._stop()
        done, failed, died = (self._outcomes[name] for name in ("done", "failed", "died"))
        return PoolSummary(done, failed, died, self._interrupts > 0)

    def _outstanding(self) -> int:
        """Return the number of jobs that are neither done nor given up."""
        in_progress = sum(len(slot.jobs) for slot in self._slots.values())
        return len(self._queue) + len(self._quarantine) + in_progress

    def _start_missing(self) -> None:
        for index in range(self._nump):
            if index not in self._slots and (self._queue or self._quarantine):
                self._slots[index] = _Slot(self._launcher.start(index))

    def _hand_out(self) -> None:
        """Give every ready worker jobs up to its share of the outstanding ones, so that late starters find some."""
        share = -(-self._outstanding() // max(1, self._nump))  # rounded up
        for slot in self._slots.values():
            if not slot.ready:
                continue
            if self._quarantine and not slot.jobs:
                self._give(slot, self._quarantine.popleft())
            width = 0 if any(map(self._is_suspect, slot.jobs)) else min(self.config.concurrency, share)
            while self._queue and len(slot.jobs) < width:
                self._give(slot, self._queue.popleft())

    def _give(self, slot: _Slot, job: Job) -> None:
        slot.jobs[job.id] = job
        slot.served = True
        self._failed_starts[slot.handle.index] = 0
        slot.handle.send(job)

    def _is_suspect(self, job: str) -> bool:
        return self._deaths[job] >= max(1, self.config.max_deaths - 1)

    def _collect(self, timeout_s: float, ending: bool = False) -> None:
        """Take in what the workers report; put back the jobs of those that died, unless the run is ending."""
        for event in self._launcher.events(timeout_s):
            slot = self._slots[event.worker]
            if event.kind == "ready":
                slot.ready = True
            elif event.kind == "record":
                del slot.jobs[event.job]
                self._finish(event.worker, event.worker, event.job, event.data)
            elif event.kind == "exit":
                del self._slots[event.worker]
                status = slot.handle.exit_status()
                if not ending:
                    self._on_death(slot, *status)
            elif event.kind == "fatal" and not ending:
                raise RainError(str(event.data))
            if event.kind in ("ready", "progress"):
                self._on_event(event)

    def _finish(self, worker: int, file: int | str, job: str, record: Record) -> None:
        """Write a job's record; then, and only then, the job counts."""
        self._write(file, record)
        kind: Literal["done", "failed"] = "failed" if "error" in record else "done"
        self._outcomes[kind] += 1
        self._on_event(Event(kind, worker, job, record.get("error")))

    def _on_death(self, slot: _Slot, killed: bool, reason: str) -> None:
        """Put a dead worker's jobs back, or give them up; report it."""
        index = slot.handle.index
        self._outcomes["died"] += 1
        self._on_event(Event("died", index, data=reason))
        for job in reversed(slot.jobs.values()):
            self._put_back(job, index, reason)
        if not slot.served:
            self._failed_starts[index] += 1
            if not killed or self._failed_starts[index] >= self.config.max_starts:
                raise RainError(f"worker {index} {reason} during start-up; see its output above")

    def _put_back(self, job: Job, worker: int, reason: str) -> None:
        self._deaths[job.id] += 1
        if self._deaths[job.id] >= self.config.max_deaths:
            message = f"the worker died {self._deaths[job.id]} times on this prompt (the last one {reason})"
            self._finish(worker, "lost", job.id, self._error_record(job, message))
        elif self._is_suspect(job.id):
            self._quarantine.append(job)
        else:
            self._queue.appendleft(job)

    def _stop(self) -> None:
        """Ask all workers to return, then end those that do not; take in what they still report."""
        try:
            for slot in self._slots.values():
                slot.handle.send(None)
            self._await_exits(self.config.grace_s)
            for slot in self._slots.values():
                slot.handle.terminate()
            self._await_exits(_TERMINATE_S)
        finally:
            for slot in self._slots.values():
                slot.handle.kill()
            self._slots.clear()

    def _await_exits(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._slots and self._interrupts < 2 and (left := deadline - time.monotonic()) > 0:
            self._collect(min(left, _TICK_S), ending=True)

    @contextmanager
    def _interrupts_counted(self) -> Iterator[None]:
        """Count Ctrl-C instead of raising, where signals can be handled: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def count(*_: object) -> None:
            self._interrupts += 1

        before = signal.signal(signal.SIGINT, count)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
