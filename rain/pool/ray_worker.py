"""The worker's side of a run on Ray: an actor around a worker, which needs neither a pipe nor a disk to its parent."""

from __future__ import annotations

import queue
import threading
import traceback
from typing import Any, NamedTuple

from rain.core.errors import RainError
from rain.pool.worker import Event, Job, WorkerArgs, WorkerLink, WorkerMain

_POLL_S = 1.0


class Returned(NamedTuple):
    """The last thing that an actor tells: how its worker came to an end, in words."""

    reason: str


class Mailbox:
    """Stands for the worker's pipe inside an actor, whose methods carry what goes in and out."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.news: queue.SimpleQueue[Event | Returned] = queue.SimpleQueue()

    def send(self, message: Any, /) -> None:
        """Keep something until the parent takes it."""
        self.news.put(message)

    def recv(self) -> Job | None:
        """Wait for what the parent puts; Ray ends the actor when the parent is gone."""
        return self.jobs.get()


class RayWorker:
    """An actor that runs a worker in a thread.

    Its methods belong to two concurrency groups of one thread each, so that jobs stay in order and nobody waits for
    the worker.

    Args:
        main: the worker's function.
        args: what it is started with.
    """

    def __init__(self, main: WorkerMain, args: WorkerArgs) -> None:
        self._box = Mailbox()
        threading.Thread(target=self._run, args=(main, args), name="worker", daemon=True).start()

    def _run(self, main: WorkerMain, args: WorkerArgs) -> None:
        """Do what ``rain.pool.worker.run_worker`` does in a process."""
        reason = "ended with exit code 1"
        link = WorkerLink(self._box, args.index)
        try:
            main(args, link)
            reason = "ended with exit code 0"
        except RainError as error:
            link.fatal(str(error))
        except Exception:
            traceback.print_exc()
        finally:
            self._box.send(Returned(reason))

    def put(self, job: Job | None) -> None:
        """Hand a job to the worker, or None to ask it to return."""
        self._box.jobs.put(job)

    def take(self) -> list[Event | Returned]:
        """Return what there is to tell; wait up to a second for the first of it."""
        news: list[Event | Returned] = []
        try:
            news.append(self._box.news.get(timeout=_POLL_S))
            while True:
                news.append(self._box.news.get_nowait())
        except queue.Empty:
            return news
