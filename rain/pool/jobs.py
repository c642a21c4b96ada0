"""The jobs that wait for a worker: new ones first, then those that a worker could not do, and suspects apart."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Set

from rain.pool.worker import Job


class JobQueue:
    """Jobs in the order in which they are to be done, and which workers failed with them.

    A job that failed waits for those that have not been tried, and goes to another worker if there is one: a worker
    that breaks cannot spoil the whole queue. One that failed `limit - 1` times is a suspect, which is to run alone.

    Args:
        jobs: all jobs.
        limit: failures after which a job is not put back (count).
    """

    def __init__(self, jobs: Iterable[Job], limit: int) -> None:
        self._limit = limit
        self._waiting, self._suspects = deque(jobs), deque[Job]()
        self._failed: defaultdict[str, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def is_suspect(self, job: Job) -> bool:
        """Tell whether a job is to run alone."""
        return len(self._failed.get(job.id, ())) >= max(1, self._limit - 1)

    def take(self, worker: int, workers: Set[int], *, suspect: bool = False) -> Job | None:
        """Remove and return the first job, or the first suspect, for one of the workers; None if there is none."""
        jobs = self._suspects if suspect else self._waiting
        for job in jobs:
            failed = self._failed.get(job.id, ())
            if worker not in failed or workers <= set(failed):
                jobs.remove(job)
                return job
        return None

    def put_back(self, job: Job, worker: int, *, blame: bool) -> int:
        """Put back a job that a worker could not do; if it has failed too often, return how often instead (count).

        Args:
            job: of the worker.
            worker: its number.
            blame: whether the job may be the reason.
        """
        failed = self._failed[job.id]
        failed += [worker] * blame
        if len(failed) >= self._limit:
            return len(failed)
        (self._suspects if self.is_suspect(job) else self._waiting).append(job)
        return 0
