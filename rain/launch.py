"""The allocation command: prompts, worker processes, records, judges."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rain.aligner import error_record
from rain.core.errors import RainError
from rain.costs import summary_table
from rain.data.datasets import Prompt, load_prompts
from rain.flags import add_flags
from rain.judges.base import JudgeConfig
from rain.judges.command import add_judge_arguments, judge_config, judge_run
from rain.judges.queries import load_run
from rain.pool.devices import cpu_cores, visible_gpus, worker_environments
from rain.pool.launchers import Launcher, LocalLauncher
from rain.pool.pool import Pool
from rain.pool.ray_launcher import RayLauncher
from rain.pool.state import PoolConfig, PoolSummary
from rain.pool.worker import Job
from rain.progress import Progress, example_answers
from rain.results.run_dir import RunDir, read_results
from rain.settings import CONFIGS, Settings, make_settings, task_defaults
from rain.tasks import load, names
from rain.tasks.task import Task
from rain.terminal import escape_unencodable, printable
from rain.worker import worker_main

INTERRUPTED = 130


class ParsedArgs(NamedTuple):
    """What the command line asks for: answers, and verdicts about them."""

    settings: Settings
    judges: list[str]
    judging: JudgeConfig


def parse(task: Task, argv: Sequence[str] | None, prog: str | None = None) -> ParsedArgs:
    """Read the command line into settings."""
    about = f"RAIN on {task.name}: answer prompts with RAIN and plainly."
    parser = argparse.ArgumentParser(prog=prog, usage="%(prog)s [FLAGS]", description=about)
    basic, defaults = parser.add_argument_group("what everybody needs"), task_defaults(task)
    for config, title in CONFIGS:
        add_flags(parser, config, defaults, title, basic)
    add_judge_arguments(parser)
    args = parser.parse_args(argv)
    fields = {field.name for config, _ in CONFIGS for field in dataclasses.fields(config)}
    given = {name: value for name, value in vars(args).items() if name in fields}
    return ParsedArgs(make_settings(task, given), args.judge, judge_config(args))


def open_launcher(settings: Settings) -> Launcher:
    """Return what starts the workers.

    Raises:
        RainError: they cannot possibly start.
    """
    run = settings.run
    if run.launcher == "ray":
        return RayLauncher(worker_main, settings, run.nump, run.ray_address)
    return LocalLauncher(worker_main, settings, worker_environments(run.nump, visible_gpus(), cpu_cores()))


class Run:
    """The prompts of a run, those that are done already, and the workers that answer the others.

    Raises:
        RainError: the prompts cannot be read, or workers cannot possibly start; nothing has been written.
    """

    def __init__(self, settings: Settings) -> None:
        run, task = settings.run, settings.aligner.task
        source = task.path(run.dataset) if run.dataset == task.dataset else run.dataset
        count_tokens = token_counter(settings.aligner.model.modelname)
        self.settings = settings
        self.prompts = load_prompts(source, task.reader, run.s, run.e, run.skip_bad, count_tokens)
        self.launcher = open_launcher(settings)

    def answer(self) -> int:
        """Answer all prompts that are not done yet; return the exit code."""
        settings = self.settings
        details = {name: dataclasses.asdict(getattr(settings, name)) for name in ("placement", "run")}
        with RunDir(settings.run.outdir, settings.aligner.as_dict(), settings.aligner.hash, details) as run_dir:
            done = run_dir.resume([prompt.id for prompt in self.prompts])
            left = [prompt for prompt in self.prompts if prompt.id not in done]
            if done:
                print(f"rain: {len(done)} of {len(self.prompts)} prompts are done already in {run_dir.path}")
            code = self.run_pool(run_dir, left).exit_code if left else 0
            self.report(run_dir.path)
            return code

    def run_pool(self, run_dir: RunDir, left: Sequence[Prompt]) -> PoolSummary:
        """Answer prompts in worker processes; this process writes their records."""
        run = self.settings.run
        progress = Progress(len(self.prompts), len(self.prompts) - len(left), run.verbose)

        def lost(job: Job, reason: str) -> dict[str, Any]:
            return error_record(self.settings.aligner, job.payload, reason)

        with closing(self.launcher), closing(progress):
            config = PoolConfig(run.nump, run.concurrency)
            pool = Pool(self.launcher, config, run_dir.write, lost, progress.event)
            return pool.run([Job(prompt.id, prompt) for prompt in left])

    def report(self, outdir: Path) -> None:
        """Print one prompt's answers and what all cost."""
        wanted = {prompt.id for prompt in self.prompts}
        records = [record for record in read_results(outdir) if record["id"] in wanted]
        print("\n\n".join(filter(None, (example_answers(records), summary_table(records)))))
        print(f"results: {outdir}/res_*.jsonl")


def token_counter(modelname: str) -> Callable[[str], int]:
    """Return a function that counts a question's tokens, for data sets that limit them; loads a tokenizer once."""

    @cache
    def tokenizer() -> Any:
        from rain.models.loading import load_tokenizer

        return load_tokenizer(modelname)

    return lambda text: len(tokenizer().encode(text))


def announce_preset(settings: Settings) -> None:
    """Say which defaults an embedded model's preset replaces."""
    if settings.preset:
        chosen = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in settings.preset.items())
        print(f"rain: preset for {settings.aligner.model.name}: {chosen} (--preset none: the paper's settings)")


def judge_after_run(args: ParsedArgs, code: int) -> int:
    """Ask the judges about a finished run; return the exit code of both."""
    if not args.judges or code == INTERRUPTED:
        return code
    failed = judge_run(load_run(Path(args.settings.run.outdir)), args.judges, args.judging)
    return max(code, int(failed > 0))


def main(task: Task, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the allocation command of a benchmark; a RainError ends with one sentence and exit code 2."""
    escape_unencodable()
    try:
        args = parse(task, argv, prog)
        allocation = Run(args.settings)
        announce_preset(args.settings)
        return judge_after_run(args, allocation.answer())
    except RainError as error:
        print(printable(f"rain: error: {error}"), file=sys.stderr)
        return 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain run``."""
    parser.add_argument("task", metavar="TASK", help=f"{', '.join(names())}; rain run TASK --help lists its flags")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="flags of the task")


def run(args: argparse.Namespace) -> int:
    """Run the allocation command of a task by its name."""
    return main(load(args.task), args.flags, f"rain run {args.task}")
