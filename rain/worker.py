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


async def answer_jobs(aligner: Aligner, link: WorkerLink, traced: bool) -> None:
    """Answer jobs (prompts) as they come until the parent says stop, then give up those in progress.

    How many are answered at once is up to who sends them. Searches are recorded if ``traced``.
    """
    tasks, thread = set[asyncio.Task[None]](), ThreadPoolExecutor(1, "jobs")  # asyncio.run would wait for its own

    async def give_signs_of_life() -> None:  # from the event loop: a search or a model that hangs stops them
        while True:
            await asyncio.sleep(BEAT_S)
            link.alive()

    async def answer(job: Job) -> None:  # what goes wrong here touches no other prompt
        def on_commit(commit: CommittedText) -> None:
            link.progress(job.id, {"simulations": commit.simulations, "text": commit.text})

        trace = partial(link.trace, job.id) if traced else None
        try:
            link.record(job.id, await aligner.record(job.payload, on_commit, trace))
        except Exception as error:
            link.fault(job.id, error)

    beat = asyncio.create_task(give_signs_of_life())
    try:
        await aligner.warm_up()
        link.ready()
        while (job := await asyncio.get_running_loop().run_in_executor(thread, link.receive)) is not None:
            tasks.add(task := asyncio.create_task(answer(job)))
            task.add_done_callback(tasks.discard)
    finally:
        beat.cancel()
        await cancel_all(tasks)
        await aligner.close()


def worker_main(args: WorkerArgs, link: WorkerLink) -> None:
    """Run a worker of a pool; ``args.settings`` are the ``Settings`` of the run."""
    settings: Settings = args.settings
    aligner = open_aligner(settings.aligner, settings.placement)
    asyncio.run(answer_jobs(aligner, link, settings.run.trace))
