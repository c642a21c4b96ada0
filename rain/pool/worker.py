"""The worker's side of a run: jobs come in over a pipe, events go out, and a worker never outlives its parent.

A worker is a function `main(args, link)` in a process of its own. It calls `link.ready()` once it can work, takes jobs
with `link.receive()` until that returns None, and tells what happens to them.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from rain.core.errors import RainError

EventKind = Literal["ready", "started", "progress", "commit", "record", "done", "failed", "fatal", "died"]


class Job(NamedTuple):
    """One piece of work: an id and whatever else the worker needs for it (picklable)."""

    id: str
    payload: Any = None


class Event(NamedTuple):
    """What a worker tells its parent.

    Attributes:
        kind: "ready" (it takes jobs now), "started", "progress" (data: dict), "commit" (data: text), "done" (the record
            is on the disk), "failed" (likewise, of an error record; data: the reason), "fatal" (no worker can go on;
            data: the reason). "record" (data: dict) comes before "done" or "failed" from a worker that shares no disk
            with its parent, which writes it. "died" (data: the reason) comes from the pool.
        worker: number of the worker, from 0.
        job: id of the job it is about, or an empty text.
        data: what belongs to the kind.
    """

    kind: EventKind
    worker: int
    job: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True)
class WorkerArgs:
    """What a worker is started with: its number, from 0, and settings that all workers share (picklable)."""

    index: int
    settings: Any = None


class Pipe(Protocol):
    """A worker's connection to its parent, such as one of ``multiprocessing``."""

    def send(self, message: Any, /) -> None:
        """Send something that can be pickled; an OSError says that the parent is gone."""

    def recv(self) -> Any:
        """Wait for what the parent sends; an EOFError or OSError says that it is gone."""


class WorkerLink:
    """A worker's end of the pipe; its methods may be called from any thread.

    A thread reads the pipe all the time. When the parent is gone, however it ended, that thread ends this process.

    Attributes:
        stopping: set once the parent wants the worker to return, giving up the jobs that it has in work.
    """

    def __init__(self, pipe: Pipe, worker: int) -> None:
        self.stopping = threading.Event()
        self._pipe = pipe
        self._worker = worker
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def _listen(self) -> None:
        try:
            while (job := self._pipe.recv()) is not None:
                self._jobs.put(job)
            self.stopping.set()
            self._jobs.put(None)
            self._pipe.recv()  # nothing more is sent: returns when the parent is gone
        except (EOFError, OSError):
            pass  # the parent is gone
        except Exception:
            traceback.print_exc()
        os._exit(1)

    def receive(self) -> Job | None:
        """Wait for a job; None means that the worker shall return."""
        job = self._jobs.get()
        if job is None:
            self._jobs.put(None)
        return job

    def ready(self) -> None:
        """Say that jobs can come."""
        self._send("ready")

    def started(self, job: str) -> None:
        """Say that a job is in work."""
        self._send("started", job)

    def progress(self, job: str, data: Mapping[str, Any]) -> None:
        """Tell figures about a job in work."""
        self._send("progress", job, dict(data))

    def commit(self, job: str, text: str) -> None:
        """Tell the text that was committed last."""
        self._send("commit", job, text)

    def record(self, job: str, record: Mapping[str, Any]) -> None:
        """Have the parent write a job's record, if it is one that does; `done` or `failed` follows."""
        self._send("record", job, dict(record))

    def done(self, job: str, data: Any = None) -> None:
        """Say that a job's record is on the disk."""
        self._send("done", job, data)

    def failed(self, job: str, message: str) -> None:
        """Say that a job failed and its error record is on the disk."""
        self._send("failed", job, message)

    def fatal(self, message: str) -> None:
        """Say that no worker can go on, in a sentence for the user; the run ends."""
        self._send("fatal", data=message)

    def _send(self, kind: EventKind, job: str = "", data: Any = None) -> None:
        event = Event(kind, self._worker, job, data)
        try:
            with self._sending:
                self._pipe.send(event)
        except OSError:
            os._exit(1)  # the parent is gone; an exception here could be taken for a fault of the job


WorkerMain = Callable[[WorkerArgs, WorkerLink], None]


def run_worker(main: WorkerMain, args: WorkerArgs, pipe: Pipe) -> None:
    """Run a worker in its process; a `RainError` ends the whole run, any other exception only this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = WorkerLink(pipe, args.index)
    try:
        main(args, link)
    except RainError as error:
        link.fatal(str(error))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
