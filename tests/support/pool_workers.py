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
import subprocess  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import closing, contextmanager, suppress  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from rain.core.errors import RainError, WorkerFault, check_device  # noqa: E402
from rain.pool.launchers import Launcher, LocalLauncher  # noqa: E402
from rain.pool.pool import Pool  # noqa: E402
from rain.pool.state import PoolConfig, PoolSummary  # noqa: E402
from rain.pool.worker import Job, RunEvent, WorkerArgs, WorkerLink, WorkerMain  # noqa: E402
from rain.results.inputs import Inputs  # noqa: E402
from rain.results.jsonl import PROMPTS_OWN, Record, read_records  # noqa: E402
from rain.results.run_dir import RunDir, iter_results, result_paths  # noqa: E402

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
        if error := obey(job, args, link):
            link.fault(job.id, error)
            continue
        if job.payload in ("refused", "wrong"):
            own = {PROMPTS_OWN: True} if job.payload == "wrong" else {}
            link.record(job.id, {"id": job.id, "error": "HTTP 400", **own})
            continue
        size = SIZES.get(job.payload, 5)
        link.record(job.id, {"id": job.id, "raina": "\ud800" + "x" * random.randrange(size // 2, size)})
        if job.payload == "kill after sending":
            die()
        if job.payload == "huge":
            os.write(os.open(Path(args.settings) / "sent", os.O_WRONLY), b".")


def broken(args: WorkerArgs, link: WorkerLink) -> None:
    """Be obedient, but as a worker whose number is in the settings (FOLDER:NUMBERS) fail with every job."""
    folder, _, numbers = args.settings.partition(":")
    if str(args.index) not in numbers:
        obedient(replace(args, settings=folder), link)
        return
    link.ready()
    while (job := link.receive()) is not None:
        link.fault(job.id, RuntimeError("device lost"))


FAULTS = {
    "fault": KeyError("a fault"),
    "server": WorkerFault("server http://x is gone"),
    "device": RuntimeError("CUDA error: an illegal memory access was encountered"),
}


def obey(job: Job, args: WorkerArgs, link: WorkerLink) -> Exception | None:
    """Follow a payload: kill, suspend, fault, server or device (once), wait (for a named pipe), raise, nan, half
    (of a message), hang, stop (when asked to) or deaf (to that), signals (of a process started here)."""
    folder = Path(args.settings)
    marker = folder / f"{job.id}.marker"
    what, _, once = str(job.payload).partition(" ")
    if once and marker.exists():
        return None
    marker.touch()
    if what == "kill" and once != "after sending":
        die()
    elif what == "suspend":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what in FAULTS:
        return FAULTS[what]
    elif what == "signals":
        status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
        masks = dict(line.split(":", 1) for line in status.splitlines())
        bit = 1 << (signal.SIGINT - 1)
        link.progress(job.id, {name: bool(int(masks[name], 16) & bit) for name in ("SigBlk", "SigIgn")})
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
    return None


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


def first_without_device(args: WorkerArgs, link: WorkerLink) -> None:
    """Be obedient, but start worker 0 on a device that fails with the message in the settings (FOLDER:MESSAGE)."""
    folder, _, said = args.settings.partition(":")
    if args.index == 0:
        check_device(RuntimeError(said))
    obedient(replace(args, settings=folder), link)


class Killer:
    """Kills a worker, or now and then this process, at random moments: shortly after one of so many events."""

    def __init__(self, seed: int, every: int) -> None:
        self.rng = random.Random(seed)
        self.every = every
        self.pids: dict[int, int] = {}

    def event(self, event: RunEvent) -> None:
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


class Run:
    """One run of a pool in this process: its events, its summary and what is on disk."""

    def __init__(
        self,
        folder: Path,
        *payloads: str,
        main: WorkerMain = obedient,
        settings: str = "",
        nump: int = 2,
        watch: Callable[[RunEvent], None] = lambda event: None,
        before_write: Callable[[Record], None] = lambda record: None,
        launcher: Launcher | None = None,
        **limits: Any,
    ) -> None:
        self.folder, self.watch, self.before_write = folder, watch, before_write
        self.events: list[RunEvent] = []
        self.summary: PoolSummary | None = None
        self.jobs = [Job(f"job-{number}", payload) for number, payload in enumerate(payloads)]
        environments = [{"OMP_NUM_THREADS": str(index + 3)} for index in range(nump)]
        self.launcher = launcher or LocalLauncher(main, settings or str(folder), environments)
        self.config = PoolConfig(nump, **limits)

    def _note(self, event: RunEvent) -> None:
        self.events.append(event)
        self.watch(event)

    def go(self) -> Run:
        """Do the jobs that are not done yet in this folder."""
        inputs = Inputs("", {job.id: "" for job in self.jobs}, "")
        with RunDir(self.folder, {"task": "hh"}, "0" * 16, {}, inputs) as run_dir, closing(self.launcher):
            done = run_dir.resume([job.id for job in self.jobs])

            def write(worker: int | str, record: Record) -> None:
                self.before_write(record)
                run_dir.write(worker, record)

            def error_record(job: Job, reason: str) -> Record:
                return {"id": job.id, "error": reason}

            left = [job for job in self.jobs if job.id not in done]
            self.summary = Pool(self.launcher, self.config, left, write, error_record, self._note).run()
        return self

    def written(self) -> list[str]:
        return sorted(record["id"] for path in result_paths(self.folder) for _, record in read_records(path))

    def errors(self) -> dict[str, str]:
        return {record["id"]: record["error"] for record in iter_results(self.folder) if "error" in record}

    def of(self, kind: str) -> list[RunEvent]:
        return [event for event in self.events if event.kind == kind]


@contextmanager
def gate(folder: Path) -> Iterator[int]:
    """Make the pipe that `wait` jobs read one byte from; its end to write to."""
    os.mkfifo(folder / "gate")
    way = os.open(folder / "gate", os.O_RDWR)
    yield way
    os.close(way)


def main(folder: str, payloads: str, nump: str = "2", concurrency: str = "1", *kills: str) -> int:
    """Run jobs in an outdir, printing every event; `kills`: a seed, and after how many events a process is killed."""
    killer = Killer(*map(int, kills or (0, 0)))

    def watch(event: RunEvent) -> None:
        print(event.kind, event.worker, event.job, event.data if event.kind == "died" else "", flush=True)
        if event.kind == "progress" and isinstance(event.data, dict):
            print("pid", event.data["pid"], flush=True)
        killer.event(event)

    options = {"max_failures": 100, "grace_s": float(os.environ.get("GRACE_S", "0.5")), "watch": watch}
    run = Run(Path(folder), *payloads.split(","), nump=int(nump), concurrency=int(concurrency), **options).go()
    print(json.dumps(run.summary._asdict()), flush=True)
    return run.summary.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
