"""What a pool is set to, what it knows of its workers, and how a run went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from rain.pool.launchers import WorkerHandle
from rain.pool.worker import Fault, Job


@dataclass(frozen=True)
class PoolConfig:
    """How many workers a pool has, and how patient it is.

    Attributes:
        nump: number of workers, at most one per job (count).
        concurrency: maximum jobs in progress on one worker (count).
        max_deaths: deaths of its worker after which a job is given up (count).
        max_failures: failures of one worker in a row, without an answer, after which it is not started again; when no
            worker is left, the run ends (count).
        max_refusals: jobs in a row that fail for the same reason, after which the run ends (count).
        pause_s: before a worker starts again whose server or device was gone; doubles with each time (seconds).
        stall_s: a worker that gives no sign of life for so long is killed; 0: never (seconds).
        grace_s: time that workers have to return when they are asked to (seconds).
    """

    nump: int = 1
    concurrency: int = 1
    max_deaths: int = 3
    max_failures: int = 5
    max_refusals: int = 20
    pause_s: float = 5.0
    stall_s: float = 0.0
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
class Slot:
    """A worker from its start to its exit.

    Attributes:
        handle: to the worker.
        ready: whether it takes jobs.
        jobs: its jobs in progress, by id.
        served: whether it ever had a job.
        silent: time since its last sign of life, while this process was watching; -inf before the first (seconds).
        faults: what it has reported; after the first it gets no more jobs, and ends with those that it has.
        failed: the jobs that it could not do.
        reason: why this process has killed it.
    """

    handle: WorkerHandle
    ready: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    served: bool = False
    silent: float = float("-inf")
    faults: list[Fault] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    reason: str = ""


@dataclass(slots=True)
class Health:
    """What is known of the workers of one number, since the last answer of one of them.

    Attributes:
        failed: jobs that they could not do.
        failures: how often they have failed, each time with a job that had not failed before (count).
        since: earliest time of the next start (time.monotonic).
    """

    failed: set[str] = field(default_factory=set)
    failures: int = 0
    since: float = 0.0
