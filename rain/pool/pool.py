"""A supervised pool: hands jobs to workers that ask for them, replaces workers that die, and does every job once."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from rain.core.errors import RainError
from rain.pool.launchers import Launcher, WorkerHandle
from rain.pool.worker import Event, Job

_TICK_S = 0.2
_TERMINATE_S = 2.0


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
    """One worker at work.

    Attributes:
        handle: the worker.
        ready: whether it takes jobs.
        jobs: what it has in hand, by id.
        served: whether it ever had a job.
    """

    handle: WorkerHandle
    ready: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    served: bool = False


def _ignore(event: Event) -> None:
    """Take no notice."""


class Pool:
    """Runs jobs on workers that may die at any moment.

    Jobs are handed out as workers finish others, so a slow job holds up nobody. The jobs of a worker that died go to
    others, unless their records are on the disk. A job whose worker died `max_deaths - 1` times runs alone from then
    on, so that no neighbour is blamed for it, and is given up at the next death.

    Args:
        launcher: starts the workers.
        nump: number of workers, at most one per job (count).
        is_done: whether the record of a job, answer or error, is on the disk; asked after its worker died.
        on_lost: writes the error record of a job that was given up; gets the job and the reason.
        concurrency: jobs that a worker has in hand at once, at most (count).
        on_event: told everything that happens, in the parent's thread.
        max_deaths: deaths of its worker after which a job is given up (count).
        max_starts: attempts to start a worker, if it is killed before it gets a job, after which the run ends (count).
        grace_s: time that workers have to return when they are asked to (seconds).
    """

    def __init__(
        self,
        launcher: Launcher,
        nump: int,
        *,
        is_done: Callable[[str], bool],
        on_lost: Callable[[Job, str], None],
        concurrency: int = 1,
        on_event: Callable[[Event], None] = _ignore,
        max_deaths: int = 3,
        max_starts: int = 3,
        grace_s: float = 10.0,
    ) -> None:
        self._launcher = launcher
        self._nump = nump
        self._is_done = is_done
        self._on_lost = on_lost
        self._concurrency = concurrency
        self._on_event = on_event
        self._max_deaths = max_deaths
        self._max_starts = max_starts
        self._grace_s = grace_s
        self._slots: dict[int, _Slot] = {}
        self._queue: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._deaths: Counter[str] = Counter()
        self._lost_starts: Counter[int] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._interrupts = 0

    def run(self, jobs: Sequence[Job]) -> PoolSummary:
        """Do all jobs; a pool runs once.

        The first Ctrl-C asks the workers to return and, after the grace time, ends them; the second ends them at once.
        Jobs in work are then not done; nothing that is on the disk is lost.

        Raises:
            RainError: a worker could not start, or said that none can go on; no worker is left running.
        """
        if len({job.id for job in jobs}) < len(jobs):
            raise ValueError("two jobs have the same id")
        self._queue.extend(jobs)
        self._nump = min(self._nump, len(jobs))
        with self._interruptible():
            try:
                while self._outstanding() and not self._interrupts:
                    self._start_missing()
                    self._hand_out()
                    self._launcher.wait([slot.handle for slot in self._slots.values()], _TICK_S)
                    self._collect()
            finally:
                self._stop()
        outcomes = self._outcomes
        return PoolSummary(outcomes["done"], outcomes["failed"], outcomes["died"], self._interrupts > 0)

    def _outstanding(self) -> int:
        """Return the number of jobs that are neither done nor given up."""
        in_hand = sum(len(slot.jobs) for slot in self._slots.values())
        return len(self._queue) + len(self._suspects) + in_hand

    def _start_missing(self) -> None:
        for index in range(self._nump):
            if index not in self._slots and (self._queue or self._suspects):
                self._slots[index] = _Slot(self._launcher.start(index))

    def _hand_out(self) -> None:
        """Give every ready worker jobs up to its share of what is left, so that late starters find some."""
        share = min(self._concurrency, -(-self._outstanding() // max(1, self._nump)))
        for slot in self._slots.values():
            if not slot.ready:
                continue
            if self._suspects and not slot.jobs:
                self._give(slot, self._suspects.popleft())
            while self._queue and len(slot.jobs) < share and not any(map(self._is_suspect, slot.jobs)):
                self._give(slot, self._queue.popleft())

    def _give(self, slot: _Slot, job: Job) -> None:
        slot.jobs[job.id] = job
        slot.served = True
        self._lost_starts[slot.handle.index] = 0
        slot.handle.send(job)

    def _is_suspect(self, job: str) -> bool:
        return self._deaths[job] >= max(1, self._max_deaths - 1)

    def _collect(self, ending: bool = False) -> None:
        """Take in what the workers tell; put back what the dead had in hand, unless the run is ending."""
        for index, slot in list(self._slots.items()):
            dead = not slot.handle.alive  # looked at first: what a dead worker has sent is complete
            for event in slot.handle.receive():
                if event.kind != "fatal":
                    self._take(slot, event)
                elif not ending:
                    raise RainError(str(event.data))
            if dead:
                del self._slots[index]
                slot.handle.kill()  # a worker with a broken pipe may still run
                if not ending:
                    self._bury(slot)

    def _take(self, slot: _Slot, event: Event) -> None:
        if event.kind == "ready":
            slot.ready = True
        elif event.kind in ("done", "failed"):
            del slot.jobs[event.job]
            self._outcomes[event.kind] += 1
        self._on_event(event)

    def _bury(self, slot: _Slot) -> None:
        """Put a dead worker's jobs back, or give them up; say so."""
        killed, reason = slot.handle.end()
        index = slot.handle.index
        self._outcomes["died"] += 1
        self._on_event(Event("died", index, data=reason))
        for job in reversed(slot.jobs.values()):
            self._put_back(job, index, reason)
        if not slot.served:
            self._lost_starts[index] += 1
            if not killed or self._lost_starts[index] >= self._max_starts:
                raise RainError(f"worker {index} {reason} before it could start; see what it printed above")

    def _put_back(self, job: Job, worker: int, reason: str) -> None:
        if self._is_done(job.id):
            self._outcomes["done"] += 1
            self._on_event(Event("done", worker, job.id))
            return
        self._deaths[job.id] += 1
        if self._deaths[job.id] >= self._max_deaths:
            message = f"the worker died {self._deaths[job.id]} times on this prompt (the last one {reason})"
            self._on_lost(job, message)
            self._outcomes["failed"] += 1
            self._on_event(Event("failed", worker, job.id, message))
        elif self._is_suspect(job.id):
            self._suspects.append(job)
        else:
            self._queue.appendleft(job)

    def _stop(self) -> None:
        """Ask all workers to return, then end those that do not; take in what they still tell."""
        try:
            for slot in self._slots.values():
                slot.handle.send(None)
            self._await_ends(self._grace_s)
            for slot in self._slots.values():
                slot.handle.terminate()
            self._await_ends(_TERMINATE_S)
        finally:
            for slot in self._slots.values():
                slot.handle.kill()
            self._slots.clear()

    def _await_ends(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._slots and self._interrupts < 2 and (left := deadline - time.monotonic()) > 0:
            self._launcher.wait([slot.handle for slot in self._slots.values()], min(left, _TICK_S))
            self._collect(ending=True)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
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
