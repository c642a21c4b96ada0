"""The settings of a run as values: what is aligned (hashed, in the records), where the model runs, and the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from rain.core.config import RainConfig
from rain.core.digest import digest
from rain.core.errors import RainError
from rain.core.fields import setting, validate
from rain.data.readers import HUB_NAMES
from rain.engines.registry import READ_OUT_ENGINES, ModelConfig, PlacementConfig
from rain.evaluators.labels import EvaluationConfig
from rain.evaluators.registry import KINDS, Spec, describe
from rain.evaluators.templates import Template
from rain.methods.config import MethodConfig
from rain.prompts import PromptFile
from rain.tasks.task import Task


@dataclass(frozen=True)
class PromptingConfig:
    """How a prompt reaches the model, and where randomness comes from."""

    seed: int = setting(0, "all randomness comes from it and the prompt's id", basic=True)
    chat_template: bool = setting(False, "use the model's chat template instead of the prompt file")
    encoder: str = setting("minilm", "sentence encoder: minilm (embedded), a hub name or a folder")

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class SourcesConfig:
    """Where evaluation template and calibration come from; what they say is in ``AlignerConfig``."""

    evaluator: tuple[str, ...] = setting(
        ("labels",), f"what scores texts: {KINDS}; of several the smallest score counts"
    )
    templates: str = setting("", "self-evaluation template: a file, or a folder with one of the task's file name")
    evaluator_template: str = setting("", "what model: is asked: a template file (default: that of the labels)")
    evaluator_base_url: str = setting("", "server that runs model:, such as http://127.0.0.1:8000/v1 (default: here)")
    calibration: str = setting("", "offset and scale of the evaluator: a file written by rain preflight")
    preset: str = setting(
        "auto", "auto: settings that suit an embedded model; none: the paper's defaults", choices=("auto", "none")
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class RunConfig:
    """Which prompts are answered, where results go and what works on them; it changes no answer."""

    dataset: str = setting("", f"prompts: a .jsonl, .json or .csv file, or from the hub: {HUB_NAMES}", basic=True)
    s: int = setting(0, "first prompt, from 0", basic=True)
    e: int | None = setting(None, "one past the last prompt (default: all)", basic=True)
    outdir: str = setting("outdir", "output folder; run the same command again to resume", basic=True)
    nump: int = setting(1, "worker processes; they share the GPUs, or the CPU cores, evenly", low=1, basic=True)
    gpu_share: int = setting(1, "worker processes that may share one GPU and its memory (local launcher)", low=1)
    concurrency: int = setting(4, "maximum searches at once in each worker", low=1, basic=True)
    launcher: str = setting(
        "local",
        "where workers run: local (processes on this machine) or ray (a Ray cluster)",
        choices=("local", "ray"),
    )
    ray_address: str = setting("", "ray: the cluster, auto or HOST:6379 (default: RAY_ADDRESS, or else this machine)")
    stall_timeout: float = setting(
        600.0, "restart a worker that has not reported for this long (seconds; 0: never)", low=0
    )
    skip_bad: bool = setting(False, "leave out broken rows of the data set instead of refusing it")
    verbose: bool = setting(False, "show responses as they are committed")
    trace: bool = setting(False, "record each search in OUTDIR/trace, for rain view (docs/view.md)")

    def __post_init__(self) -> None:
        validate(self)
        if self.ray_address and self.launcher != "ray":
            raise RainError("--ray-address needs --launcher ray")
        if self.gpu_share > 1 and self.launcher == "ray":
            raise RainError(f"--gpu-share is {self.gpu_share}, but --launcher ray gives every worker whole GPUs")


@dataclass(frozen=True)
class AlignerConfig:
    """What is aligned: everything that an answer depends on, as values that can be sent to another machine.

    Attributes:
        task: whose stop rules hold.
        model: what answers.
        method, prompting, evaluation, search: settings by subject.
        evaluators: what scores texts.
        template: what the model is asked about its text.
        prompt_file: the format of a question; None: the model's chat template.
    """

    task: Task
    model: ModelConfig
    method: MethodConfig
    prompting: PromptingConfig
    evaluation: EvaluationConfig
    search: RainConfig
    evaluators: tuple[Spec, ...]
    template: Template
    prompt_file: PromptFile | None

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name this configuration in every record."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as it is in config.json; long texts by the first digits of their SHA-256."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in PARTS}
        task = {name: getattr(self.task, name) for name in TASK_RULES}
        template, prompt_file = dataclasses.asdict(self.template), self.prompt_file
        texts = {"template": digest(template), "prompt_file": digest(prompt_file) if prompt_file else None}
        names = {"evaluators": [describe(spec) for spec in self.evaluators], "template_name": template["name"]}
        return {"task": self.task.name, "rules": task, **parts, **names, **texts}


PARTS = ("model", "method", "prompting", "evaluation", "search")
TASK_RULES = ("stop_strings", "to_end", "rollout_limit", "cut_after_full_stop", "aim")


def shown_preset(preset: Mapping[str, Any]) -> str:
    """Return the settings of a preset in words, by the names of their flags."""
    shown = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in preset.items()}
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in shown.items())


@dataclass(frozen=True)
class Settings:
    """Everything about a run.

    Attributes:
        aligner: what is aligned.
        placement: where the model runs.
        run: prompts, results and workers.
        preset: the settings that an embedded model's preset has set, for printing.
        format_known: whether the prompt format is final.
    """

    aligner: AlignerConfig
    placement: PlacementConfig
    run: RunConfig
    preset: Mapping[str, Any]
    format_known: bool

    def without_preset_of(self, replaced: Sequence[type[Any]]) -> Settings:
        """Return the settings without what the preset says of these classes, where something else takes its place."""
        names = {field.name for config in replaced for field in fields(config)}
        return replace(self, preset={name: value for name, value in self.preset.items() if name not in names})

    def preset_notice(self) -> str:
        """Return which defaults an embedded model's preset replaces, empty if it has none."""
        chosen = shown_preset(self.preset)
        name, engine = self.aligner.model.name, self.aligner.model.engine
        lost = "evaluator" in self.aligner.task.presets.get(name, {}) and engine not in READ_OUT_ENGINES
        why = f"; its read-out is not used, since --engine {engine} cannot read hidden states" if lost else ""
        return f"rain: preset for {name}: {chosen} (preset none: the paper's settings){why}" if chosen else ""
