"""A supervised pool: hands jobs to workers that ask for them, replaces workers that die, and does every job once."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rain.core.errors import RainError
from rain.pool.jobs import JobQueue
from rain.pool.launchers import Launcher
from rain.pool.state import Health, PoolConfig, PoolSummary, Slot
from rain.pool.worker import Fault, Job, RunEvent
from rain.results.jsonl import PROMPTS_OWN, Record

_TICK_S = 0.2
_TERMINATE_S = 2.0

Write = Callable[[int | str, Record], None]


class Pool:
    """Runs jobs on workers that may fail or die at any moment.

    Jobs are handed out as workers finish others, so a slow job delays nobody. Only this process writes records, so the
    jobs of a dead worker whose records have not arrived are not done; they go to other workers, after those that have
    not been tried yet. A job whose worker died `max_deaths - 1` times runs alone from then on, so that no neighbour is
    blamed for it, and is given up at the next death. A worker that fails with one job after the other is given up
    itself.

    Args:
        launcher: starts the workers.
        config: numbers and times.
        jobs: what there is to do, each under an id of its own.
        write: gets a worker's number ("lost": of jobs that were given up) and a record; returns when it is on disk.
        error_record: makes the record of a job that was given up from the job and the reason.
        on_event: gets everything that happens, in the parent's thread.
    """

    def __init__(
        self,
        launcher: Launcher,
        config: PoolConfig,
        jobs: Sequence[Job],
        write: Write,
        error_record: Callable[[Job, str], Record],
        on_event: Callable[[RunEvent], None] = lambda event: None,
    ) -> None:
        self.config = config
        self._launcher = launcher
        self._write = write
        self._error_record = error_record
        self._on_event = on_event
        self._slots: dict[int, Slot] = {}
        self._jobs = JobQueue(jobs, config.max_deaths)
        self._health = {index: Health() for index in range(min(config.nump, len(jobs)))}  # of workers not given up
        self._outcomes: Counter[str] = Counter()
        self._refusals = ("", 0)  # why the last jobs failed, and how many in a row
        self._interrupts, self._watched = 0, time.monotonic()

    def run(self) -> PoolSummary:
        """Do all jobs; a pool runs once.

        The first Ctrl-C asks the workers to return and, after the grace time, ends them; the second ends them at once.
        Jobs in progress are then not done; nothing that is on disk is lost.

        Raises:
            RainError: a worker could not start or reported that none can continue, or a record could not be written;
                no worker is left running.
        """
        with self._interrupts_counted():
            try:
                while self._outstanding() and not self._interrupts:
                    self._start_missing()
                    self._hand_out()
                    self._collect(_TICK_S)
                    self._kill_silent()
                    self._check_refusals()
            finally:
                self._stop()
        done, failed, died = (self._outcomes[name] for name in ("done", "failed", "died"))
        return PoolSummary(done, failed, died, self._interrupts > 0)

    def _outstanding(self) -> int:
        """Return the number of jobs that are neither done nor given up."""
        return len(self._jobs) + sum(len(slot.jobs) for slot in self._slots.values())

    def _start_missing(self) -> None:
        for index, health in self._health.items():
            if self._jobs and index not in self._slots and time.monotonic() >= health.since:
                try:
                    self._slots[index] = Slot(self._launcher.start(index))
                except OSError as error:
                    raise RainError(f"worker {index} cannot be started: {error}") from error

    def _hand_out(self) -> None:
        """Give every ready worker jobs up to its share of the outstanding ones, so that late starters find some."""
        share = -(-self._outstanding() // max(1, len(self._health)))  # rounded up
        for slot in self._slots.values():
            if not slot.ready or slot.faults:
                continue
            if not slot.jobs:
                self._give(slot, suspect=True)
            width = 0 if any(map(self._jobs.is_suspect, slot.jobs.values())) else min(self.config.concurrency, share)
            while len(slot.jobs) < width and self._give(slot):
                pass

    def _give(self, slot: Slot, suspect: bool = False) -> bool:
        job = self._jobs.take(slot.handle.index, self._health.keys(), suspect=suspect)
        if job is None:
            return False
        slot.jobs[job.id] = job
        slot.served = True
        slot.handle.send(job)
        return True

    def _collect(self, timeout_s: float, ending: bool = False) -> None:
        """Take in what the workers report; put back the jobs of those that died, unless the run is ending."""
        for event in self._launcher.events(timeout_s):
            slot = self._slots[event.worker]
            slot.silent = 0.0
            if event.kind == "ready":
                slot.ready = True
                self._outcomes["ready"] += 1
            elif event.kind == "record":
                del slot.jobs[event.job]
                self._finish(event.worker, event.worker, event.job, event.data)
            elif event.kind == "fault" and not ending:
                self._on_fault(slot, event.job, event.data)
            elif event.kind == "exit":
                del self._slots[event.worker]
                status = slot.handle.exit_status()
                if not ending:
                    self._on_death(slot, *status)
            elif event.kind == "fatal" and not ending:
                raise RainError(str(event.data))
            if slot.faults and not slot.jobs and not ending:
                slot.handle.kill()
            if event.kind in ("ready", "progress", "trace"):
                self._on_event(event)

    def _finish(self, worker: int, file: int | str, job: str, record: Record) -> None:
        """Write a job's record; then, and only then, the job counts."""
        reason = "" if record.pop(PROMPTS_OWN, False) else record.get("error", "")
        self._write(file, record)
        kind: Literal["done", "failed"] = "failed" if "error" in record else "done"
        if kind == "done":
            self._health[worker] = Health()
        self._outcomes[kind] += 1
        self._on_event(RunEvent(kind, worker, job, record.get("error")))
        self._refusals = reason, self._refusals[1] + 1 if reason == self._refusals[0] else 1

    def _check_refusals(self) -> None:
        """End the run where one prompt after the other fails for the same reason, which then is none of theirs."""
        reason, count = self._refusals
        if reason and count >= self.config.max_refusals:
            raise RainError(f"{count} prompts in a row failed: {reason}; the same command continues with what is left")

    def _kill_silent(self) -> None:
        """Kill the workers that have given no sign of life for too long."""
        now = time.monotonic()
        passed = min(now - self._watched, 2 * _TICK_S)  # not the time for which this process was stopped itself
        self._watched = now
        for slot in self._slots.values():
            slot.silent += passed
            if 0 < self.config.stall_s < slot.silent:
                slot.reason = f"gave no sign of life for {self.config.stall_s:g} s (--stall-timeout) and was killed"
                slot.silent = 0.0
                slot.handle.kill()

    def _on_fault(self, slot: Slot, job: str, fault: Fault) -> None:
        """Put back a job that its worker could not do."""
        slot.faults.append(fault)
        if job:
            self._put_back(slot, slot.jobs.pop(job), fault.reason, blame=not fault.sure)

    def _on_death(self, slot: Slot, killed: bool, reason: str) -> None:
        """Put a dead worker's jobs back, or give them up; report it; give up the worker if it fails again and again."""
        index, worker_at_fault = slot.handle.index, any(fault.sure for fault in slot.faults)
        reason = slot.reason or (slot.faults[0].reason if slot.faults else reason)
        self._outcomes["died"] += 1
        self._on_event(RunEvent("died", index, data=reason))
        for job in slot.jobs.values():
            self._put_back(slot, job, reason)
        health = self._health[index]
        if worker_at_fault or not slot.failed or not slot.failed <= health.failed:  # not jobs that failed here before
            health.failures += 1
        health.failed |= slot.failed
        if worker_at_fault:
            health.since = time.monotonic() + self.config.pause_s * 2 ** (health.failures - 1)
        may_restart = slot.served or (self._outcomes["ready"] if worker_at_fault else killed and not slot.faults)
        if not may_restart or health.failures >= self.config.max_failures:
            when = "" if slot.served else " during start-up" + ("" if worker_at_fault else "; see its output above")
            what = f"worker {index} {reason}{when} (failures in a row: {health.failures})"
            del self._health[index]
            if not self._health and self._outstanding():
                raise RainError(f"no worker can continue: {what}; what is done is kept, and the same command continues")

    def _put_back(self, slot: Slot, job: Job, reason: str, blame: bool = True) -> None:
        slot.failed.add(job.id)
        if deaths := self._jobs.put_back(job, slot.handle.index, blame=blame):
            message = f"the worker died {deaths} times on this prompt (the last one {reason})"
            self._finish(slot.handle.index, "lost", job.id, self._error_record(job, message))

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
