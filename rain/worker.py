"""What a worker process does: it loads the model once and answers many prompts at the same time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rain.aligner import Aligner, open_aligner
from rain.configs import Settings
from rain.core.concurrency import cancel_all
from rain.generation import CommittedText
from rain.pool.worker import BEAT_S, Job, WorkerArgs, WorkerLink


class WorkerLoop:
    """Answers the jobs (prompts) of one worker; how many at once is up to who sends them.

    Args:
        aligner: answers.
        link: to the parent.
        traced: whether searches are recorded.
    """

    def __init__(self, aligner: Aligner, link: WorkerLink, traced: bool = False) -> None:
        self.aligner, self.link, self.traced = aligner, link, traced
        self._thread = ThreadPoolExecutor(1, "jobs")  # not asyncio's own: asyncio.run would wait for it
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer jobs as they come until the parent says stop."""
        beat = asyncio.create_task(self._beat())
        try:
            await self.aligner.warm_up()
            self.link.ready()
            while (job := await self._receive()) is not None:
                task = asyncio.create_task(self.answer(job))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            beat.cancel()
            await self.stop()

    async def _receive(self) -> Job | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.link.receive)

    async def _beat(self) -> None:
        """Give signs of life from the event loop, where a search or a model that hangs would stop them."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.link.alive()

    async def answer(self, job: Job) -> None:
        """Answer one prompt and send its record; what goes wrong here touches no other prompt."""

        def on_commit(commit: CommittedText) -> None:
            self.link.progress(job.id, {"simulations": commit.simulations, "text": commit.text})

        trace = partial(self.link.trace, job.id) if self.traced else None
        try:
            self.link.record(job.id, await self.aligner.record(job.payload, on_commit, trace))
        except Exception as error:
            self.link.fault(job.id, error)

    async def stop(self) -> None:
        """Give up the jobs in progress and release the model."""
        await cancel_all(self._tasks)
        await self.aligner.close()


def worker_main(args: WorkerArgs, link: WorkerLink) -> None:
    """Run a worker of a pool; ``args.settings`` are the ``Settings`` of the run."""
    settings: Settings = args.settings
    aligner = open_aligner(settings.aligner, settings.placement)
    asyncio.run(WorkerLoop(aligner, link, settings.run.trace).run())
