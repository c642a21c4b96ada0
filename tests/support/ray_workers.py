"""Workers for the tests of Ray: they know no result file, and tell their parent what to write."""

from __future__ import annotations

import os

from support.pool_workers import obey

from rain.core.errors import RainError
from rain.pool.worker import WorkerArgs, WorkerLink


def resources() -> dict[str, str]:
    """Return what this worker may use."""
    return {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "threads": os.environ.get("OMP_NUM_THREADS", "")}


def node() -> int:
    """Return the process id of the node that this worker runs on."""
    return os.getppid()


def distant(args: WorkerArgs, link: WorkerLink) -> None:
    """Do what each job's payload says and send a record; settings: a folder for marks and gates."""
    link.ready()
    while (job := link.receive()) is not None:
        link.started(job.id)
        link.progress(job.id, {"pid": os.getpid(), "node": node(), **resources()})
        obey(job, args, link)
        link.record(job.id, {"id": job.id, "raina": f"answer to {job.id} \ud800"})
        link.done(job.id)


def unfit(args: WorkerArgs, link: WorkerLink) -> None:
    """Fail before being ready, in the way that the settings name."""
    if args.settings == "error":
        raise RainError("unknown model: llama-9")
    raise ValueError("not foreseen")
