"""The worker's side of a run: jobs come in over a pipe, records go out, and a worker never outlives its parent.

A worker is a function `main(args, link)`. It calls `link.ready()` once it can work, takes jobs with `link.receive()`
until that returns None, and answers each with `link.record()`.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from rain.core.errors import RainError, WorkerFault, is_broken_device
from rain.results.jsonl import encode_json

BEAT_S = 1.0
"""Seconds between two signs of life."""

EventKind = Literal["ready", "alive", "progress", "trace", "record", "fault", "fatal", "exit", "done", "failed", "died"]


class Job(NamedTuple):
    """One piece of work: an id and whatever else the worker needs for it (picklable)."""

    id: str
    payload: Any = None


class RunEvent(NamedTuple):
    """What happens in a run.

    Attributes:
        kind: from a worker: "ready" (it takes jobs now), "alive" (nothing else), "progress" (of a job; data: any),
            "trace" (of a job; data: a part of its recorded search, and whether it is the first), "record" (of a job;
            data: dict), "fault" (of a job or at start-up; data: `Fault`), "fatal" (no worker can continue; data: the
            reason). From a launcher: "exit", the last event of each worker. From the pool: "done" (the record is on
            disk), "failed" (likewise, an error record; data: the reason), "died" (data: the reason).
        worker: number of the worker, from 0.
        job: id of the job it is about, or an empty text.
        data: what belongs to the kind.
    """

    kind: EventKind
    worker: int
    job: str = ""
    data: Any = None


class Fault(NamedTuple):
    """An exception that is not about a prompt's text.

    Attributes:
        reason: what happened, such as "failed (ValueError: too bad)".
        sure: whether it is certain that the worker is at fault, so that no prompt is blamed.
    """

    reason: str
    sure: bool


@dataclass(frozen=True, slots=True)
class WorkerArgs:
    """What a worker is started with.

    Attributes:
        index: its number, from 0.
        settings: those that all workers share (picklable).
        folder: working directory; the worker changes to it if its machine has such a folder.
    """

    index: int
    settings: Any = None
    folder: str = field(default_factory=os.getcwd)


class Pipe(Protocol):
    """A worker's connection to its parent, such as one of ``multiprocessing``."""

    def send(self, message: Any, /) -> None:
        """Send something that can be pickled; an OSError means that the parent is gone."""

    def recv(self) -> Any:
        """Wait for what the parent sends; an EOFError or OSError means that it is gone."""


class WorkerLink:
    """A worker's end of the pipe; its methods may be called from any thread.

    A thread reads the pipe all the time. When the parent is gone, however it ended, that thread ends this process.
    Another one gives signs of life until the worker is ready; from then on `alive` is called where the work is done, so
    that work that hangs is noticed.

    Attributes:
        loaded: set when the worker is ready or has failed.
    """

    def __init__(self, pipe: Pipe, worker: int) -> None:
        self._pipe = pipe
        self._worker = worker
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self.loaded = threading.Event()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def _listen(self) -> None:
        try:
            while (job := self._pipe.recv()) is not None:
                self._jobs.put(job)
            self._jobs.put(None)
            self._pipe.recv()  # nothing more is sent: returns when the parent is gone
        except (EOFError, OSError):
            pass  # the parent is gone
        except Exception:
            traceback.print_exc()
        os._exit(1)

    def _beat(self) -> None:
        self.alive()
        while not self.loaded.wait(BEAT_S):
            self.alive()

    def receive(self) -> Job | None:
        """Wait for a job; None means that the worker should return, giving up the jobs in progress."""
        job = self._jobs.get()
        if job is None:
            self._jobs.put(None)
        return job

    def ready(self) -> None:
        """Report that jobs can come."""
        self.loaded.set()
        self._send("ready")

    def alive(self) -> None:
        """Give a sign of life."""
        self._send("alive")

    def progress(self, job: str, data: Any) -> None:
        """Report anything about a job in progress."""
        self._send("progress", job, data)

    def trace(self, job: str, member: bytes, first: bool) -> None:
        """Send a part of a job's recorded search (``rain.trace.record.Append``); the parent writes it."""
        self._send("trace", job, (member, first))

    def record(self, job: str, record: Mapping[str, Any]) -> None:
        """Report the outcome of a job, an answer or an error; the parent writes it.

        Raises:
            ValueError: a number in the record is infinite or not a number.
        """
        encode_json(record)  # what cannot be written must not reach the parent
        self._send("record", job, dict(record))

    def fault(self, job: str, error: Exception) -> None:
        """Report that a job (at start-up: an empty text) could not be done, though not because of what it asks."""
        sure = isinstance(error, WorkerFault) or is_broken_device(error)
        what = str(error) if isinstance(error, WorkerFault) else f"{type(error).__name__}: {error}"
        self._send("fault", job, Fault(f"failed ({what})", sure))

    def fatal(self, message: str) -> None:
        """Report that no worker can continue, in a sentence for the user; the run ends."""
        self._send("fatal", data=message)

    def _send(self, kind: EventKind, job: str = "", data: Any = None) -> None:
        event = RunEvent(kind, self._worker, job, data)
        try:
            with self._sending:
                self._pipe.send(event)  # the parent reads all the time, so this does not block for long
        except OSError:
            os._exit(1)  # the parent is gone; an exception here could be taken for a fault of the job


WorkerMain = Callable[[WorkerArgs, WorkerLink], None]


def run_worker(main: WorkerMain, args: WorkerArgs, pipe: Pipe) -> int:
    """Run a worker and return its exit code.

    A `RainError` ends the whole run, a `WorkerFault` or any other exception only this worker.
    """
    link = WorkerLink(pipe, args.index)
    with suppress(OSError):
        os.chdir(args.folder)
    try:
        main(args, link)
    except WorkerFault as error:
        link.fault("", error)
        return 1
    except RainError as error:
        link.fatal(str(error))
    except Exception as error:
        traceback.print_exc()
        link.fault("", error)
        return 1
    finally:
        link.loaded.set()
    return 0


def run_process(main: WorkerMain, args: WorkerArgs, pipe: Pipe) -> None:
    """Run a worker as a process of its own, which Ctrl-C does not end; what it starts itself is not kept from it."""
    signal.signal(signal.SIGINT, lambda *_: None)  # unlike SIG_IGN and the mask, a handler is not inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if run_worker(main, args, pipe):
        sys.stderr.flush()
        os._exit(1)
