"""The parent's side of its workers: starting them, hearing from them, and how they exit."""

from __future__ import annotations

import os
import queue
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from rain.pool.worker import Job, RunEvent, WorkerArgs, WorkerMain, run_process

_POLL_S = 0.2
_EXIT_S = 1.0
_KILL_S = 10.0


class ExitStatus(NamedTuple):
    """How a worker ended: whether it was killed from outside, and a description of its end."""

    killed: bool
    reason: str


class WorkerHandle(ABC):
    """The parent's view of one worker, wherever it runs."""

    index: int

    @abstractmethod
    def send(self, job: Job | None) -> None:
        """Hand over a job, or None to ask the worker to stop; a worker that is gone does nothing."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask the operating system to end the worker."""

    @abstractmethod
    def kill(self) -> None:
        """End the worker at once; return when it has ended."""

    @abstractmethod
    def exit_status(self) -> ExitStatus:
        """Return how the worker ended, after its event "exit"."""


class Launcher(ABC):
    """Starts workers and hears from all of them."""

    @abstractmethod
    def start(self, index: int) -> WorkerHandle:
        """Start worker `index`, or start it again."""

    @abstractmethod
    def events(self, timeout_s: float) -> Iterator[RunEvent]:
        """Yield what workers have reported, in order; wait for the first event (seconds).

        The last event of each worker has the kind "exit".
        """

    def close(self) -> None:
        """Release what the workers shared; they have all ended."""
        return None


class LocalHandle(WorkerHandle):
    """A worker process on this machine.

    A thread reads its pipe, so that neither the worker has to wait until the parent has time (it may be writing to a
    slow disk), nor the parent for a worker that was stopped in the middle of a message.

    Args:
        process: has been started.
        pipe: to the process.
        index: number of the worker.
        events: gets what the worker reports, and at last its exit.
    """

    def __init__(self, process: BaseProcess, pipe: Connection, index: int, events: queue.SimpleQueue[RunEvent]) -> None:
        self.index = index
        self._process, self._pipe, self._events = process, pipe, events
        self._reader = threading.Thread(target=self._read, name=f"rain-reader-{index}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            alive = True
            while alive:
                alive = self._process.is_alive()  # looked at first: what a dead worker has sent is complete
                while self._pipe.poll(_POLL_S if alive else 0):
                    self._events.put(self._pipe.recv())
        except (EOFError, OSError):
            pass  # the worker has closed its end
        finally:
            self._events.put(RunEvent("exit", self.index))

    def send(self, job: Job | None) -> None:
        """Hand over a job, or None."""
        with suppress(OSError):
            self._pipe.send(job)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._process.kill()
        self._process.join(_KILL_S)  # one that is stuck in a driver outlives its kill for a while
        self._reader.join(_EXIT_S)

    def exit_status(self) -> ExitStatus:
        """Return how the process ended, by its exit code."""
        self._process.join(_EXIT_S)  # the pipe ends a little before the process; one without a pipe may run on
        self.kill()
        code = self._process.exitcode
        if code is None or code >= 0:
            return ExitStatus(False, f"exited with code {code}")
        name = {known.value: known.name for known in signal.Signals}.get(-code, f"signal {-code}")
        hint = " (possibly out of memory)" if code == -signal.SIGKILL else ""
        return ExitStatus(True, f"was killed by {name}{hint}")


class LocalLauncher(Launcher):
    """Starts workers as processes on this machine (method spawn: the program's main module must guard its start).

    Args:
        main: the worker's function; importable by name.
        settings: goes to every worker (picklable).
        environments: variables that each worker starts with, one mapping per worker.
    """

    def __init__(self, main: WorkerMain, settings: Any, environments: Sequence[Mapping[str, str]]) -> None:
        self._main = main
        self._settings = settings
        self._environments = environments
        self._events: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()

    def start(self, index: int) -> LocalHandle:
        """Start a worker with its environment set before any import, ignoring Ctrl-C."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        args = (self._main, WorkerArgs(index, self._settings), theirs)
        process = context.Process(target=run_process, args=args, name=f"rain-worker-{index}")
        with _environment(self._environments[index]), _interrupts_blocked():
            process.start()
        theirs.close()
        return LocalHandle(process, ours, index, self._events)

    def events(self, timeout_s: float) -> Iterator[RunEvent]:
        """Yield what the readers of the pipes have put."""
        with suppress(queue.Empty):
            yield self._events.get(timeout=timeout_s)
            for _ in range(self._events.qsize()):  # not until it is empty: meanwhile workers wait for jobs
                yield self._events.get_nowait()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let a process that starts now inherit a blocked SIGINT: Ctrl-C is the parent's to handle, from the beginning."""
    resource_tracker.ensure_running()  # starts with the first process otherwise, and then unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
