"""The worker's side of a run on Ray: an actor around a worker."""

from __future__ import annotations

import os
import queue
import threading

from rain.core.engine import SHARERS
from rain.pool.worker import Job, RunEvent, WorkerArgs, WorkerMain, run_worker

_POLL_S = 1.0


class RayWorker:
    """An actor that runs a worker in a thread, and is the worker's pipe (``send``, ``recv``).

    The parent calls ``put`` and ``take``, in two concurrency groups of one thread each, so that jobs stay in order and
    nobody waits for the worker.

    Args:
        main: the worker's function.
        args: what it is started with.
        sharers: workers that may be on the same node and share its memory, this one included (count).
    """

    def __init__(self, main: WorkerMain, args: WorkerArgs, sharers: int = 1) -> None:
        os.environ[SHARERS] = str(sharers)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(main, args), name="worker", daemon=True).start()

    def _run(self, main: WorkerMain, args: WorkerArgs) -> None:
        code = 1
        try:
            code = run_worker(main, args, self)
        finally:
            self.send(RunEvent("exit", args.index, data=f"exited with code {code}"))

    def send(self, message: RunEvent, /) -> None:
        """Keep an event until the parent takes it."""
        self._events.put(message)

    def recv(self) -> Job | None:
        """Wait for what the parent puts; Ray ends the actor when the parent is gone."""
        return self._jobs.get()

    def put(self, job: Job | None) -> None:
        """Hand a job to the worker, or None to ask it to return."""
        self._jobs.put(job)

    def take(self) -> list[RunEvent]:
        """Return what there is to report; wait up to a second for the first of it."""
        events: list[RunEvent] = []
        try:
            events.append(self._events.get(timeout=_POLL_S))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events
