"""``rain learn``: learns a read-out of hidden states from labelled texts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rain.configs import RunConfig, SourcesConfig
from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.data.labelled import load_part
from rain.engines.registry import READ_OUT_ENGINES, open_engine
from rain.evaluators.labels import EvaluationConfig
from rain.evaluators.learn import check_enough, figures, hidden_states, learn, learn_request, rounded
from rain.evaluators.metrics import ranking_table
from rain.evaluators.readout_file import ReadOutFile, prompt_format
from rain.evaluators.templates import load_prompt
from rain.methods.config import MethodConfig
from rain.models.loading import model_files
from rain.preflight import add_text_arguments
from rain.progress import progress_bar
from rain.prompts import PromptFormatter
from rain.results.files import check_writable, write_atomic
from rain.results.inputs import fingerprint
from rain.settings import add_setting_flags, given_settings, make_settings
from rain.tasks import load
from rain.text import TokenizerAdapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain learn``."""
    parser.usage = "%(prog)s FILE.json [FLAGS]"
    parser.add_argument("file", type=Path, metavar="FILE.json", help="where the read-out goes")
    parser.add_argument("--name", default="good", help="of the read-out, such as harmless (default: good)")
    parser.add_argument("--request", action="store_true", help="read the request, too (field prompt_is_safe)")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="prompt file (default: the task's)")
    add_text_arguments(parser)
    add_setting_flags(parser, without=[RunConfig, MethodConfig, SourcesConfig, EvaluationConfig, RainConfig])


def run(args: argparse.Namespace) -> int:
    """Learn a read-out in the prompt format of the settings, write it and print how well it does."""
    task, given = load(args.task), given_settings(args)
    if args.prompt and given.get("chat_template"):
        raise RainError("--prompt and --chat-template are two prompt formats; leave one out")
    settings = make_settings(task, given, format_known=False)
    config = settings.aligner
    if config.model.engine not in READ_OUT_ENGINES:
        raise RainError(f"--engine {config.model.engine} cannot read hidden states; use --engine hf")
    texts, learnt_on = load_part(args.labelled or [task.path("labelled.jsonl")], args.part)
    check_enough(texts, args.request)
    check_writable(args.file)
    engine, tokenizer = open_engine(replace(config.model, engine="reference"), settings.placement)
    prompt_file = load_prompt(args.prompt) if args.prompt else config.prompt_file
    formatter = PromptFormatter(TokenizerAdapter(tokenizer), prompt_file)
    with progress_bar(len(texts), "text") as bar:
        states = hidden_states(engine, formatter, texts, bar.update)  # type: ignore[arg-type]
    learnt = learn(states, texts)
    by_length = figures(learnt, states.counts, texts)
    measured = {**learnt_on, "texts": len(texts), "C": learnt.ridge, "by_length": by_length}
    request = None
    if args.request:
        request, measured["request"] = learn_request(states, texts)
    name, used, weights = config.model.name, prompt_format(prompt_file), rounded(learnt.weights)
    files = fingerprint(model_files(config.model.modelname, "hf"))
    file = ReadOutFile(args.name, name, used, learnt.layer, weights, learnt.bias, measured, prompt_file, request, files)
    print(f"{args.name}: {name}, {used}, layer {learnt.layer}; on prompts that it was not learnt from:")
    print(ranking_table("tokens", by_length))
    if request:
        area, known = measured["request"]["auc"], measured["request"]["requests"]
        print(f"harmful requests: layer {request.layer}, AUC {area:.3f} on {known} requests, held out")
    write_atomic(args.file, file.as_json())
    print(f"written to {args.file}; use it with --evaluator readout:{args.file}")
    return 0
