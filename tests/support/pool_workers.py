"""Workers for the tests of the pool; as a program, a run of scripted jobs that can be killed and started again."""

from __future__ import annotations

import os

THREADS_AT_IMPORT = os.environ.get("OMP_NUM_THREADS")  # before anything else is imported
if __name__ == "__mp_main__" and "IMPORT_GATE" in os.environ:  # a worker of this program, while it starts
    os.write(1, b"importing\n")
    os.read(os.open(os.environ["IMPORT_GATE"], os.O_RDONLY), 1)

import json  # noqa: E402
import random  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from contextlib import ExitStack, suppress  # noqa: E402
from pathlib import Path  # noqa: E402

from rain.core.errors import RainError  # noqa: E402
from rain.pool.devices import split  # noqa: E402
from rain.pool.launchers import LocalLauncher  # noqa: E402
from rain.pool.pool import Pool  # noqa: E402
from rain.pool.worker import Event, Job, WorkerArgs, WorkerLink  # noqa: E402
from rain.results.run_dir import OutDir, ResultWriter  # noqa: E402


def die() -> None:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def obedient(args: WorkerArgs, link: WorkerLink) -> None:
    """Do what each job's payload says and write a record; settings: the outdir."""
    with ResultWriter(Path(args.settings) / f"res_{args.index}.jsonl") as writer:
        link.ready()
        while (job := link.receive()) is not None:
            link.started(job.id)
            link.progress(job.id, {"pid": os.getpid(), "threads": THREADS_AT_IMPORT, "worker": args.index})
            obey(job, args, link)
            writer.write({"id": job.id, "raina": "x" * random.randrange(50_000 if job.payload == "long" else 5)})
            if job.payload == "kill after writing":
                die()
            link.commit(job.id, "text")
            link.done(job.id)


def obey(job: Job, args: WorkerArgs, link: WorkerLink) -> None:
    """Follow a payload: kill, kill once, wait (for a named pipe), raise, full (disk), hang,
    stop (when asked to) or deaf (to that)."""
    marker = Path(args.settings) / f"{job.id}.marker"
    if job.payload == "kill" or (job.payload == "kill once" and not marker.exists()):
        marker.touch()
        die()
    elif job.payload == "wait":
        os.read(os.open(Path(args.settings) / "gate", os.O_RDONLY), 1)
    elif job.payload == "raise":
        raise ValueError("a fault of the worker")
    elif job.payload == "full":
        raise RainError("cannot write res_0.jsonl: No space left on device")
    elif job.payload == "hang":
        threading.Event().wait()
    elif job.payload in ("stop", "deaf"):
        link.stopping.wait()
        link.commit(job.id, "noticed")
        if job.payload == "stop":
            raise SystemExit(0)
        threading.Event().wait()


def unstartable(args: WorkerArgs, link: WorkerLink) -> None:
    """Fail before being ready, in the way that the settings name."""
    if args.settings == "fatal":
        link.fatal("unknown model: llama-9")
        threading.Event().wait()
    elif args.settings == "error":
        raise RainError("unknown model: llama-9")
    elif args.settings == "exception":
        raise ValueError("not foreseen")
    elif args.settings == "killed":
        die()


def main(folder: str, payloads: str, nump: str = "2", concurrency: str = "1", *kills: str) -> int:
    """Run jobs in an outdir, printing every event; `kills`: a seed, and after how many events a process is killed."""
    seed, every = map(int, kills or (0, 0))
    rng = random.Random(seed)
    jobs = [Job(f"job-{number:04d}", payload) for number, payload in enumerate(payloads.split(","))]
    pids: dict[int, int] = {}
    with ExitStack() as stack:
        outdir = stack.enter_context(OutDir(folder, {"task": "hh"}))
        done = outdir.resume([job.id for job in jobs]).done
        lost = stack.enter_context(ResultWriter(outdir.result_path("lost")))

        def watch(event: Event) -> None:
            print(event.kind, event.worker, event.job, event.data if event.kind == "died" else "", flush=True)
            if event.kind == "progress":
                pids[event.worker] = event.data["pid"]
                print("pid", event.data["pid"], flush=True)
            elif event.kind == "died":
                pids.pop(event.worker, None)
            if every and pids and rng.random() < 1 / every:
                with suppress(ProcessLookupError):
                    os.kill(os.getpid() if rng.random() < 0.1 else rng.choice(sorted(pids.values())), signal.SIGKILL)

        launcher = LocalLauncher(obedient, folder, split(int(nump), [], 2))
        pool = Pool(
            launcher,
            int(nump),
            is_done=lambda job: job in outdir.done_ids(errors=True),
            on_lost=lambda job, message: lost.write({"id": job.id, "error": message}),
            concurrency=int(concurrency),
            on_event=watch,
            max_starts=100,
            grace_s=float(os.environ.get("GRACE_S", "0.5")),
        )
        summary = pool.run([job for job in jobs if job.id not in done])
    print(json.dumps(summary._asdict()), flush=True)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
