"""The parent's side of its workers: starting them, talking to them, seeing how they end."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from rain.pool.worker import Event, Job, WorkerArgs, WorkerMain, run_worker


class End(NamedTuple):
    """How a worker ended: whether something outside of it killed it, and the same in words."""

    killed: bool
    reason: str


class WorkerHandle(ABC):
    """The parent's view of one worker, wherever it runs."""

    index: int

    @abstractmethod
    def send(self, job: Job | None) -> None:
        """Hand over a job, or None to ask the worker to stop; a worker that is gone takes no notice."""

    @abstractmethod
    def receive(self) -> list[Event]:
        """Return the events that are there, without waiting."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the worker still runs; events may be left to receive when it does not."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask the operating system to end the worker."""

    @abstractmethod
    def kill(self) -> None:
        """End the worker at once and wait until it has ended."""

    @abstractmethod
    def end(self) -> End:
        """Say how the worker ended; only after `kill` or when it is not alive."""


class Launcher(ABC):
    """Starts workers and waits for news from any of them."""

    @abstractmethod
    def start(self, index: int) -> WorkerHandle:
        """Start worker `index`, or start it anew."""

    @abstractmethod
    def wait(self, handles: Sequence[WorkerHandle], timeout_s: float) -> None:
        """Return when one of the workers has sent something or ended, or after the time (seconds)."""


class LocalHandle(WorkerHandle):
    """A worker process on this machine."""

    def __init__(self, process: BaseProcess, pipe: Connection, index: int) -> None:
        self.index = index
        self._process = process
        self._pipe = pipe
        self._open = True

    @property
    def waitables(self) -> list[Any]:
        """What to wait on for news."""
        return [self._process.sentinel, *([self._pipe] if self._open else [])]

    def send(self, job: Job | None) -> None:
        """Hand over a job, or None."""
        with suppress(OSError):
            self._pipe.send(job)

    def receive(self) -> list[Event]:
        """Return the events that are there."""
        events: list[Event] = []
        try:
            while self._open and self._pipe.poll():
                events.append(self._pipe.recv())
        except (EOFError, OSError):
            self._open = False
        return events

    @property
    def alive(self) -> bool:
        """Whether the process runs and its pipe is open."""
        return self._open and self._process.is_alive()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._process.kill()
        self._process.join()

    def end(self) -> End:
        """Say how the process ended, by its exit code."""
        code = self._process.exitcode
        if code is None or code >= 0:
            return End(False, f"ended with exit code {code}")
        name = {known.value: known.name for known in signal.Signals}.get(-code, f"signal {-code}")
        hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return End(True, f"was killed by {name}{hint}")


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

    def start(self, index: int) -> LocalHandle:
        """Start a worker with its variables set before it imports anything, deaf to Ctrl-C."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        args = (self._main, WorkerArgs(index, self._settings), theirs)
        process = context.Process(target=run_worker, args=args, name=f"rain-worker-{index}")
        with _environment(self._environments[index]), _deaf_to_interrupts():
            process.start()
        theirs.close()
        return LocalHandle(process, ours, index)

    def wait(self, handles: Sequence[WorkerHandle], timeout_s: float) -> None:
        """Wait on the pipes and the processes."""
        local = (handle for handle in handles if isinstance(handle, LocalHandle))
        connection.wait([item for handle in local for item in handle.waitables], timeout_s)


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
def _deaf_to_interrupts() -> Iterator[None]:
    """Let a process that starts now inherit a blocked SIGINT: Ctrl-C is the parent's to handle, from the beginning."""
    resource_tracker.ensure_running()  # starts with the first process otherwise, and then unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
