"""The allocation command: prompts, worker processes, progress, summary."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from rain.aligner import error_record, worker_main
from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.data.datasets import Prompt, load_prompts
from rain.engines.registry import EngineConfig
from rain.evaluators.labels import EvaluationConfig, read_calibration
from rain.flags import add_flags
from rain.judges.base import JudgeSettings
from rain.judges.command import add_judge_arguments, judge_run, judge_settings
from rain.judges.queries import load_run
from rain.pool.devices import cpu_cores, split, visible_gpus
from rain.pool.launchers import Launcher, LocalLauncher
from rain.pool.pool import Pool, PoolSummary
from rain.pool.ray_launcher import RayLauncher, import_ray
from rain.pool.remote import Parcel, ResultFiles, remote_main
from rain.pool.worker import Event, Job
from rain.results.run_dir import OutDir, ResultWriter, read_results
from rain.settings import VOLATILE, VOLATILE_ENGINE, RunConfig, Settings, make_settings, task_defaults
from rain.summary import summary_table
from rain.tasks.task import Task

INTERRUPTED = 130


class Order(NamedTuple):
    """What the command line asks for: answers, and verdicts about them."""

    settings: Settings
    judges: list[str]
    judging: JudgeSettings


def parse(task: Task, argv: Sequence[str] | None) -> Order:
    """Read the command line into settings."""
    parser = argparse.ArgumentParser(description=f"RAIN on {task.name}: answer prompts with RAIN and plainly.")
    defaults = task_defaults(task)
    for cls, title in (
        (RunConfig, "run"),
        (EngineConfig, "model"),
        (EvaluationConfig, "self-evaluation"),
        (RainConfig, "search"),
    ):
        add_flags(parser, cls, defaults, title)
    add_judge_arguments(parser)
    args = parser.parse_args(argv)
    given = vars(args)
    if given.get("calibration"):
        offset, scale = read_calibration(Path(given["calibration"]))
        given = {"offset": offset, "scale": scale, **given}
    return Order(make_settings(task, given), args.judge, judge_settings(args))


class Progress:
    """Shows what the workers tell: a bar over all prompts, committed text with ``--verbose``, faults."""

    def __init__(self, total: int, done: int, verbose: bool) -> None:
        self.bar = tqdm(total=total, initial=done, unit="prompt", dynamic_ncols=True, smoothing=0.1)
        self.verbose = verbose
        self.simulations = 0
        self.bar.set_postfix_str("loading the model")

    def event(self, event: Event) -> None:
        """Take in one event."""
        if event.kind == "progress":
            self.simulations += int(event.data["simulations"])
        elif event.kind == "commit" and self.verbose:
            tqdm.write(f"[{event.job}] {event.data!r}")
        elif event.kind == "failed":
            tqdm.write(f"{event.job}: {event.data}", file=sys.stderr)
        elif event.kind == "died":
            tqdm.write(f"worker {event.worker} {event.data}; its prompts are done again", file=sys.stderr)
        if event.kind in ("done", "failed"):
            self.bar.update()
        elapsed = self.bar.format_dict["elapsed"] or 1
        self.bar.set_postfix_str(f"{self.simulations / elapsed:.1f} simulations/s", refresh=event.kind != "commit")


@contextmanager
def open_launcher(settings: Settings, outdir: OutDir) -> Iterator[Launcher]:
    """Yield what starts the workers; with Ray, this process writes their records."""
    run = settings.run
    if run.launcher == "local":
        yield LocalLauncher(worker_main, settings, split(run.nump, visible_gpus(), cpu_cores()))
        return
    with (
        ResultFiles(outdir) as files,
        closing(RayLauncher(remote_main, Parcel.of(settings), run.nump, files.write, run.ray_address)) as launcher,
    ):
        yield launcher


def check_launcher(run: RunConfig) -> None:
    """Raise a RainError where it is plain from the beginning that workers cannot start."""
    if run.launcher == "ray":
        import_ray()
    else:
        split(run.nump, visible_gpus(), cpu_cores())


def run_pool(settings: Settings, outdir: OutDir, prompts: Sequence[Prompt], total: int, done: int) -> PoolSummary:
    """Answer the prompts in worker processes."""
    progress = Progress(total, done, settings.run.verbose)

    def give_up(job: Job, reason: str) -> None:
        with ResultWriter(outdir.result_path("lost")) as writer:
            writer.write(error_record(settings, job.payload, reason))

    with closing(progress.bar), open_launcher(settings, outdir) as launcher:
        pool = Pool(
            launcher,
            settings.run.nump,
            is_done=lambda job: job in outdir.done_ids(errors=True),
            on_lost=give_up,
            concurrency=settings.run.concurrency,
            on_event=progress.event,
        )
        return pool.run([Job(prompt.id, prompt) for prompt in prompts])


def announce(settings: Settings) -> None:
    """Say which defaults an embedded model's preset replaces."""
    if settings.preset:
        chosen = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in settings.preset.items())
        print(f"rain: preset for {settings.engine.modelname}: {chosen} (--preset none: the paper's settings)")


def token_counter(settings: Settings) -> Any:
    """Return a function that counts a question's tokens, for data sets that limit them; loads a tokenizer once."""
    loaded: list[Any] = []

    def count(text: str) -> int:
        if not loaded:
            from rain.models.loading import load_tokenizer

            loaded.append(load_tokenizer(settings.engine.modelname))
        return len(loaded[0].encode(text))

    return count


def allocate(settings: Settings) -> int:
    """Answer all prompts of a run that are not done yet; return the exit code."""
    run, task = settings.run, settings.task
    source = task.path(run.dataset) if run.dataset == task.dataset else run.dataset
    prompts = load_prompts(source, task.reader, run.s, run.e, run.skip_bad, token_counter(settings))
    check_launcher(run)
    announce(settings)
    with OutDir(run.outdir, settings.as_dict(), VOLATILE + VOLATILE_ENGINE) as outdir:
        settings = replace(settings, config_hash=outdir.config_hash)
        resumed = outdir.resume([prompt.id for prompt in prompts])
        left = [prompt for prompt in prompts if prompt.id not in resumed.done]
        if resumed.done:
            print(f"rain: {len(resumed.done)} of {len(prompts)} prompts are done already in {run.outdir}")
        code = 0
        if left:
            code = run_pool(settings, outdir, left, len(prompts), len(resumed.done)).exit_code
        wanted = {prompt.id for prompt in prompts}
        print(summary_table([record for record in read_results(outdir.path) if record["id"] in wanted]))
        print(f"results: {outdir.path}/res_*.jsonl")
        return code


def main(task: Task, argv: Sequence[str] | None = None) -> int:
    """Run the allocation command of a benchmark; a RainError ends with one sentence and exit code 2."""
    try:
        order = parse(task, argv)
        code = allocate(order.settings)
        if order.judges and code != INTERRUPTED:
            run = load_run(Path(order.settings.run.outdir))
            code = max(code, int(judge_run(run, order.judges, order.judging) > 0))
        return code
    except RainError as error:
        print(f"rain: error: {error}", file=sys.stderr)
        return 2
