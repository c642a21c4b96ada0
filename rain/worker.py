"""What a worker process does: it loads the model once and answers many prompts at the same time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rain.aligner import Aligner, CommittedText, open_aligner
from rain.pool.worker import Job, WorkerArgs, WorkerLink
from rain.settings import Settings


class WorkerLoop:
    """Answers the jobs (prompts) of one worker; how many at once is up to who sends them.

    Args:
        aligner: answers.
        link: to the parent.
    """

    def __init__(self, aligner: Aligner, link: WorkerLink) -> None:
        self.aligner, self.link = aligner, link
        self._thread = ThreadPoolExecutor(1, "jobs")  # not asyncio's own: asyncio.run would wait for it
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer jobs as they come until the parent says stop."""
        try:
            await self.aligner.warm_up()
            self.link.ready()
            next_job = self._receive()
            while True:
                waiting: list[asyncio.Future[Any]] = [next_job, *self._tasks]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in self._tasks if task.done()]:
                    self._tasks.remove(task)
                    task.result()
                if next_job.done():
                    job = next_job.result()
                    if job is None:
                        return
                    self._tasks.add(asyncio.create_task(self.answer(job)))
                    next_job = self._receive()
        finally:
            await self.stop()

    def _receive(self) -> asyncio.Future[Job | None]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self.link.receive)

    async def answer(self, job: Job) -> None:
        """Answer one prompt and send its record."""

        def on_commit(commit: CommittedText) -> None:
            self.link.progress(job.id, {"simulations": commit.simulations, "text": commit.text})

        self.link.record(job.id, await self.aligner.record(job.payload, on_commit))

    async def stop(self) -> None:
        """Give up the jobs in progress and release the model."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.aligner.close()


def worker_main(args: WorkerArgs, link: WorkerLink) -> None:
    """Run a worker of a pool; ``args.settings`` are the ``Settings`` of the run."""
    settings: Settings = args.settings
    aligner = open_aligner(settings.aligner, settings.placement)
    asyncio.run(WorkerLoop(aligner, link).run())
