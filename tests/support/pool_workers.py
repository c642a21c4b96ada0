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
import struct  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402

from rain.core.errors import RainError  # noqa: E402
from rain.pool.devices import worker_environments  # noqa: E402
from rain.pool.launchers import LocalLauncher  # noqa: E402
from rain.pool.pool import Pool, PoolConfig  # noqa: E402
from rain.pool.worker import Event, Job, WorkerArgs, WorkerLink  # noqa: E402
from rain.results.run_dir import RunDir  # noqa: E402

SIZES = {"long": 50_000, "huge": 1 << 21}


def die() -> None:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def obedient(args: WorkerArgs, link: WorkerLink) -> None:
    """Do what each job's payload says and send a record; settings: a folder for marks and gates."""
    link.ready()
    while (job := link.receive()) is not None:
        resources = {"threads": THREADS_AT_IMPORT, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        link.progress(job.id, {"pid": os.getpid(), "node": os.getppid(), "worker": args.index, **resources})
        obey(job, args, link)
        size = SIZES.get(job.payload, 5)
        link.record(job.id, {"id": job.id, "raina": "\ud800" + "x" * random.randrange(size // 2, size)})
        if job.payload == "kill after sending":
            die()
        if job.payload == "huge":
            os.write(os.open(Path(args.settings) / "sent", os.O_WRONLY), b".")


def obey(job: Job, args: WorkerArgs, link: WorkerLink) -> None:
    """Follow a payload: kill, kill once, wait (for a named pipe), raise, nan, half (of a message), hang, stop (when
    asked to) or deaf (to that)."""
    folder = Path(args.settings)
    marker = folder / f"{job.id}.marker"
    if job.payload == "kill" or (job.payload == "kill once" and not marker.exists()):
        marker.touch()
        die()
    elif job.payload == "wait":
        os.read(os.open(folder / "gate", os.O_RDONLY), 1)
    elif job.payload == "raise":
        raise ValueError("a fault of the worker")
    elif job.payload == "nan":
        link.record(job.id, {"id": job.id, "value": float("nan")})
    elif job.payload == "half":
        os.write(link._pipe.fileno(), struct.pack("!i", 1 << 20))  # type: ignore[attr-defined]
        threading.Event().wait()
    elif job.payload == "hang":
        threading.Event().wait()
    elif job.payload in ("stop", "deaf"):
        assert link.receive() is None
        link.progress(job.id, "noticed")
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


class Killer:
    """Kills a worker, or now and then this process, at random moments: shortly after one of so many events."""

    def __init__(self, seed: int, every: int) -> None:
        self.rng = random.Random(seed)
        self.every = every
        self.pids: dict[int, int] = {}

    def event(self, event: Event) -> None:
        """Note which processes there are; perhaps decide to kill one."""
        if event.kind == "progress" and isinstance(event.data, dict):
            self.pids[event.worker] = event.data["pid"]
        elif event.kind == "died":
            self.pids.pop(event.worker, None)
        if self.every and self.pids and self.rng.random() < 1 / self.every:
            pid = os.getpid() if self.rng.random() < 0.1 else self.rng.choice(sorted(self.pids.values()))
            threading.Timer(self.rng.random() * 0.01, self.kill, [pid]).start()

    def kill(self, pid: int) -> None:
        """Kill a process that may have ended."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main(folder: str, payloads: str, nump: str = "2", concurrency: str = "1", *kills: str) -> int:
    """Run jobs in an outdir, printing every event; `kills`: a seed, and after how many events a process is killed."""
    jobs = [Job(f"job-{number:04d}", payload) for number, payload in enumerate(payloads.split(","))]
    killer = Killer(*map(int, kills or (0, 0)))

    def watch(event: Event) -> None:
        print(event.kind, event.worker, event.job, event.data if event.kind == "died" else "", flush=True)
        if event.kind == "progress" and isinstance(event.data, dict):
            print("pid", event.data["pid"], flush=True)
        killer.event(event)

    with RunDir(folder, {"task": "hh"}, "0" * 16) as run_dir:
        done = run_dir.resume([job.id for job in jobs])
        config = PoolConfig(
            int(nump), int(concurrency), max_starts=100, grace_s=float(os.environ.get("GRACE_S", "0.5"))
        )
        launcher = LocalLauncher(obedient, folder, worker_environments(int(nump), [], 2))
        pool = Pool(launcher, config, run_dir.write, lambda job, reason: {"id": job.id, "error": reason}, watch)
        summary = pool.run([job for job in jobs if job.id not in done])
    print(json.dumps(summary._asdict()), flush=True)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
