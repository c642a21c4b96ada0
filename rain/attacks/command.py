"""``rain attack`` writes GCG suffixes; ``rain run adv --dataset yourdata.json`` defends the model against them.

The attack is white-box: it follows the gradients of the models it is given (rain.attacks.gcg). It measures what a
defence withstands, so attack the model that will be defended, or others with --universal to measure transfer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rain.attacks.config import AttackConfig, GCGConfig
from rain.attacks.store import Behaviour, open_store
from rain.core.errors import RainError
from rain.data.datasets import load_prompts, select_prompts
from rain.evaluators.templates import load_prompt
from rain.flags import add_flags, build
from rain.models.embedded.catalog import CAUSAL_NAMES
from rain.prompts import PromptFormatter
from rain.tasks.adv import TASK
from rain.terminal import say
from rain.text import TokenizerAdapter

if TYPE_CHECKING:
    from rain.attacks.run import Victim

SMALL = {"steps": 20, "batch": 32, "topk": 64}
"""For the embedded models: minutes, not hours, on a CPU."""


def make_gcg_config(attack: AttackConfig, given: Mapping[str, Any]) -> GCGConfig:
    """Return the settings of the search: flags, else the embedded models' preset (printed), else the paper's."""
    preset = SMALL if set(attack.models) <= set(CAUSAL_NAMES) else {}
    used = {name: value for name, value in preset.items() if name not in given}
    if used:
        paper = GCGConfig()
        shown = ", ".join(f"--{name} {value} (paper: {getattr(paper, name)})" for name, value in used.items())
        say(f"rain: small settings for the embedded model: {shown}", sys.stderr)
    return build(GCGConfig, preset, given)


def read_behaviours(attack: AttackConfig) -> list[Behaviour]:
    """Read the range of behaviours, each once; RainError names one without a target."""
    prompts, behaviours = load_prompts(attack.dataset, TASK.reader), []
    for prompt in select_prompts(prompts, attack.dataset, TASK.reader, attack.s, attack.e):
        goal, target = prompt.extra["goal"].strip(), prompt.extra.get("target", "").strip()
        if not goal or not target:
            raise RainError(f"{attack.dataset}: the behaviour {goal!r} lacks the field 'goal' or 'target'")
        behaviours.append(Behaviour(goal, target))
    return list(dict.fromkeys(behaviours))


def load_victims(attack: AttackConfig) -> list[Victim]:
    """Load the models; RainError if their vocabularies differ, since a suffix is made of tokens."""
    import torch

    from rain.attacks.run import Victim
    from rain.models.info import end_ids
    from rain.models.loading import load_model

    prompt_file = None if attack.chat_template else load_prompt(TASK.path(TASK.prompt))
    device_map = "auto" if torch.cuda.device_count() > 1 else ""
    victims: list[Victim] = []
    for name in attack.models:
        model, tokenizer = load_model(name, dtype=attack.dtype, device_map=device_map)
        adapter = TokenizerAdapter(tokenizer, end_ids(model.generation_config, tokenizer))
        victims.append(Victim(model.eval(), PromptFormatter(adapter, prompt_file)))
        if tokenizer.get_vocab() != victims[0].formatter.adapter.tokenizer.get_vocab():
            raise RainError(f"{attack.models[0]} and {name} have different vocabularies; attack them one at a time")
    return victims


def attack_all(attack: AttackConfig, config: GCGConfig) -> str:
    """Make the suffixes that the file lacks; return how many succeed, in words."""
    from rain.attacks.run import Attack

    behaviours = read_behaviours(attack)
    groups = [behaviours] if attack.universal else [[each] for each in behaviours]
    with open_store(Path(attack.out)) as store:
        attacks = [Attack(group, attack, config, store) for group in groups]
        unfinished = [each for each in attacks if not each.finished]
        victims = load_victims(attack) if unfinished else []
        for number, each in enumerate(unfinished, 1):
            each.run(victims, f"suffix {number}/{len(unfinished)}")
        records = [store.records[each] for each in behaviours]
    won = sum(record["success"] for record in records)
    before, after = (sum(record[name] for record in records) / len(records) for name in ("initial_loss", "loss"))
    return f"{attack.out}: {won} of {len(records)} succeed by {attack.criterion}; loss {before:.3f} -> {after:.3f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain attack``."""
    parser.usage = "%(prog)s [FLAGS]"
    basic = parser.add_argument_group("what everybody needs")
    add_flags(parser, AttackConfig, {}, "attack", basic)
    add_flags(parser, GCGConfig, {}, "search (default: the paper's)")


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    given = vars(args)
    attack = build(AttackConfig, given)
    say(attack_all(attack, make_gcg_config(attack, given)))
    return 0
