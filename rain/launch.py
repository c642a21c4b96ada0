"""The allocation command: prompts, worker processes, records, judges."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rain.configs import Settings, shown_preset
from rain.core.digest import digest
from rain.costs import summary_table
from rain.data.datasets import Prompt, load_prompts, select_prompts
from rain.engines.registry import ModelConfig
from rain.entry import INTERRUPTED, guarded
from rain.flags import Parser, add_flags, build
from rain.judges.base import JudgeConfig
from rain.judges.command import FREE_JUDGES, add_judge_arguments, judge_run, try_judge
from rain.judges.queries import load_run
from rain.keys import origin
from rain.models.loading import load_tokenizer, model_files
from rain.pool.devices import cpu_cores, visible_gpus, worker_environments
from rain.pool.launchers import Launcher, LocalLauncher
from rain.pool.pool import Pool
from rain.pool.ray_launcher import RayLauncher
from rain.pool.state import PoolConfig, PoolSummary
from rain.pool.worker import Job, RunEvent
from rain.presets import choose_preset
from rain.progress import Progress, example_answers
from rain.records import error_record
from rain.results.inputs import Inputs, fingerprint
from rain.results.jsonl import Record
from rain.results.run_dir import RunDir, iter_results, result_paths
from rain.settings import CONFIGS, given_settings, make_settings, task_defaults
from rain.tasks import load, names
from rain.tasks.task import Task
from rain.terminal import counted, say
from rain.trace.record import TRACES, append_to_file, trace_file
from rain.worker import worker_main


class ParsedArgs(NamedTuple):
    """What the command line asks for: answers, and verdicts about them."""

    settings: Settings
    judges: list[str]
    judging: JudgeConfig


def parse(task: Task, argv: Sequence[str] | None, prog: str | None = None) -> ParsedArgs:
    """Read the command line into settings."""
    about = f"RAIN on {task.name}: answer prompts with RAIN and greedily."
    preset = shown_preset(choose_preset(task, {}))
    presets = f"The preset of {ModelConfig().modelname} replaces defaults: {preset}; --preset none keeps them."
    shown = presets.replace("%", "%%") if preset else None
    parser = Parser(prog=prog, usage="%(prog)s [FLAGS]", description=about, epilog=shown)
    basic, defaults = parser.add_argument_group("what everybody needs"), task_defaults(task)
    for config, title in CONFIGS:
        add_flags(parser, config, defaults, title, basic)
    add_judge_arguments(parser)
    args = parser.parse_args(argv)
    return ParsedArgs(make_settings(task, given_settings(args)), args.judge, build(JudgeConfig, vars(args)))


def open_launcher(settings: Settings) -> Launcher:
    """Return what starts the workers.

    Raises:
        RainError: they cannot possibly start.
    """
    run = settings.run
    if run.launcher == "ray":
        return RayLauncher(worker_main, settings, run.nump, run.ray_address)
    environments = worker_environments(run.nump, visible_gpus(), cpu_cores(), run.gpu_share)
    return LocalLauncher(worker_main, settings, environments)


class Allocation:
    """The prompts of a run, those that are done already, and the workers that answer the others.

    Raises:
        RainError: the prompts cannot be read, or workers cannot possibly start; nothing has been written.
    """

    def __init__(self, settings: Settings) -> None:
        run, task = settings.run, settings.aligner.task
        own = run.dataset == task.dataset and not Path(run.dataset).is_file()  # named, but not in the current folder
        source = task.path(run.dataset) if own else run.dataset
        model = settings.aligner.model
        everything = load_prompts(source, task.reader, run.skip_bad)
        count_tokens = token_counter(model.modelname)
        self.settings = settings
        self.prompts = select_prompts(everything, source, task.reader, run.s, run.e, count_tokens)
        prompts = {prompt.id: digest(prompt.extra) if prompt.extra else "" for prompt in everything}
        self.model = model_files(model.modelname, model.engine, run.launcher)
        self.inputs = Inputs(run.dataset, prompts, fingerprint(self.model) if self.model else "")
        self.launcher = open_launcher(settings)

    def answer(self) -> int:
        """Answer all prompts that are not done yet; return the exit code."""
        settings = self.settings
        details = {name: dataclasses.asdict(getattr(settings, name)) for name in ("placement", "run")}
        urls = settings.placement.base_url
        details["placement"]["base_url"] = ",".join(origin(url.strip()) for url in urls.split(",") if url.strip())
        config = settings.aligner.as_dict(), settings.aligner.hash
        with RunDir(settings.run.outdir, *config, details, self.inputs) as run_dir:
            notice = settings.aligner.task.reader.notice
            if notice and (text := notice(self.prompts)):
                say(f"rain: {text}")
            done = run_dir.resume([prompt.id for prompt in self.prompts])
            left = [prompt for prompt in self.prompts if prompt.id not in done]
            if run_dir.left_out:
                records = counted(run_dir.left_out, "record")
                say(f"rain: left out: {records} in {run_dir.path} of prompts that {settings.run.dataset} does not have")
            if done:
                say(f"rain: {len(done)} of {len(self.prompts)} prompts are done already in {run_dir.path}")
            started = time.monotonic()
            code = self.run_pool(run_dir, left).exit_code if left else 0
            self.report(run_dir.path, time.monotonic() - started)
            return code

    def run_pool(self, run_dir: RunDir, left: Sequence[Prompt]) -> PoolSummary:
        """Answer prompts in worker processes; this process writes their records."""
        run = self.settings.run
        progress = Progress(len(self.prompts), len(self.prompts) - len(left), run.verbose)
        traces = run_dir.path / TRACES

        def heard(event: RunEvent) -> None:
            if event.kind == "ready" and self.model and not self.inputs.weights:
                run_dir.know_weights(fingerprint(self.model))  # the first worker has fetched them
            if event.kind == "trace":
                append_to_file(trace_file(traces, event.job), *event.data)
            else:
                progress.event(event)

        def lost(job: Job, reason: str) -> dict[str, Any]:
            return error_record(self.settings.aligner, job.payload, reason)

        with closing(self.launcher), closing(progress):
            config = PoolConfig(run.nump, run.concurrency, stall_s=run.stall_timeout)
            jobs = [Job(prompt.id, prompt) for prompt in left]
            return Pool(self.launcher, config, jobs, run_dir.write, lost, heard).run()

    def report(self, outdir: Path, seconds: float) -> None:
        """Print one prompt's answers, what all cost, and how long this run took."""
        wanted = {prompt.id for prompt in self.prompts}

        def records() -> Iterator[Record]:
            return (record for record in iter_results(outdir) if record["id"] in wanted)

        say("\n\n".join(filter(None, (example_answers(records()), summary_table(records())))))
        say(f"this run took {seconds:,.0f} s")
        if any(result_paths(outdir)):
            judge = "" if self.settings.aligner.task.name in FREE_JUDGES else " --judge NAME"
            judged = f"rain judge {outdir}{judge} scores them, rain report {outdir} compares them"
            say(f"results: {outdir}/res_*.jsonl; {judged}")


def token_counter(modelname: str) -> Callable[[str], int]:
    """Return a function that counts a question's tokens, for data sets that limit them; loads a tokenizer once."""

    @cache
    def tokenizer() -> Any:
        return load_tokenizer(modelname)

    return lambda text: len(tokenizer().encode(text))


def main(task: Task, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the allocation command of a benchmark; a RainError ends with one sentence and exit code 2."""

    def work() -> int:
        args = parse(task, argv, prog)
        allocation = Allocation(args.settings)
        for name in args.judges:
            try_judge(name, args.judging, task.name, {args.settings.aligner.model.name})
        if notice := args.settings.preset_notice():
            say(notice)
        code = allocation.answer()
        if not args.judges or code == INTERRUPTED:
            return code
        failed = judge_run(load_run(Path(args.settings.run.outdir)), args.judges, args.judging)
        return max(code, int(failed > 0))

    return guarded(work, resumes=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain run``."""
    parser.add_argument("task", metavar="TASK", help=f"{', '.join(names())}; rain run TASK --help lists its flags")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="flags of the task")


def run(args: argparse.Namespace) -> int:
    """Run the allocation command of a task by its name."""
    return main(load(args.task), args.flags, f"rain run {args.task}")
