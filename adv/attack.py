"""Write GCG suffixes: python adv/attack.py --modelname M --dataset advbench.csv --out yourdata.json.

adv/allocation.py --dataset yourdata.json then defends the model against them.

The attack is white-box: it follows the gradients of the models it is given (rain.attacks.gcg). It measures what a
defence withstands, so attack the model that will be defended, or others with --universal to measure transfer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rain.attacks.gcg import GCGConfig
from rain.attacks.run import KEYWORDS, TARGET, Attack, Plan, Victim, succeeds
from rain.attacks.store import Behaviour, SuffixStore
from rain.core.errors import RainError
from rain.models.embedded.catalog import CAUSAL_NAMES

SMALL = {"steps": 20, "batch": 32, "topk": 64}  # for the embedded models: minutes, not hours, on a CPU
PROMPT = Path(__file__).resolve().parent / "templates" / "prompt.txt"


def parser() -> argparse.ArgumentParser:
    """Return the command's flags; settings that are left out come from the preset or the paper."""
    paper = GCGConfig()
    flags = argparse.ArgumentParser(description="Optimise adversarial suffixes (GCG) for the models' own gradients.")
    add = flags.add_argument
    add("--modelname", default="smollm2", help="model to attack: name, folder or .gguf; A,B for several")
    add("--dataset", required=True, help="behaviours: .csv, .json or .jsonl with goal and target (AdvBench)")
    add("--out", type=Path, default=Path("yourdata.json"), help="file for the suffixes; continued if it is there")
    add("--s", type=int, default=0, help="first behaviour, from 0")
    add("--e", type=int, help="one past the last behaviour (default: all)")
    add("--steps", type=int, help=f"steps per suffix (paper: {paper.steps})")
    add("--batch", type=int, help=f"candidates drawn per step (paper: {paper.batch})")
    add("--topk", type=int, help=f"tokens to choose from at each position (paper: {paper.topk})")
    add("--chunk", type=int, default=paper.chunk, help="candidates per forward pass; changes memory and speed only")
    add("--universal", action="store_true", help="one suffix for all behaviours (transfer), instead of one each")
    add("--seed", type=int, default=paper.seed)
    add("--suffix-length", type=int, default=20, help='the first suffix is this many "!" (default 20)')
    add("--init", help="the first suffix, as text (instead of --suffix-length)")
    add("--criterion", default=TARGET, help=f"success: {TARGET} (answer begins with it) or {KEYWORDS}LIST (no refusal)")
    add("--stop-on-success", action="store_true", help="end an attack at success instead of after all steps")
    add("--answer-tokens", type=int, default=64, help="length of the greedy answers in the file")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    add("--chat-template", action="store_true", help="the model's chat template instead of templates/prompt.txt")
    return flags


def config_of(args: argparse.Namespace) -> GCGConfig:
    """Return the settings: flags, else the preset of the embedded models (which is printed), else the paper's."""
    given = {name: getattr(args, name) for name in SMALL if getattr(args, name) is not None}
    preset = SMALL if all(name in CAUSAL_NAMES for name in names_of(args)) else {}
    used = {name: value for name, value in preset.items() if name not in given}
    if used:
        paper = GCGConfig()
        shown = ", ".join(f"--{name} {value} (paper: {getattr(paper, name)})" for name, value in used.items())
        print(f"rain: small settings for the embedded model: {shown}", file=sys.stderr)
    return GCGConfig(**{**preset, **given}, chunk=args.chunk, seed=args.seed)


def names_of(args: argparse.Namespace) -> list[str]:
    """Return the names of the models; RainError if one is empty or comes twice."""
    names = [name.strip() for name in args.modelname.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise RainError(f"--modelname {args.modelname!r} must name models, each once, with a comma between two")
    return names


def plan_of(args: argparse.Namespace, config: GCGConfig, behaviours: int) -> Plan:
    """Return how the suffixes are made; RainError for settings that cannot be."""
    for name in ("suffix_length", "answer_tokens"):
        if getattr(args, name) < 1:
            raise RainError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}")
    succeeds("", "", args.criterion)
    init = " ".join(["!"] * args.suffix_length) if args.init is None else args.init.strip()
    identity = {
        "model": ",".join(names_of(args)),
        "seed": config.seed,
        "criterion": args.criterion,
        "batch": config.batch,
        "topk": config.topk,
        "init": init,
        "universal": behaviours if args.universal else 0,
        "template": "chat template" if args.chat_template else PROMPT.name,
        "dtype": args.dtype,
    }
    return Plan(config, init, args.criterion, args.stop_on_success, args.answer_tokens, identity)


def read_behaviours(args: argparse.Namespace) -> list[Behaviour]:
    """Read the range of behaviours, each once; RainError names one without a target."""
    from rain.data.datasets import load_prompts
    from rain.data.readers import ADV

    behaviours = []
    for prompt in load_prompts(args.dataset, ADV, args.s, args.e):
        goal, target = prompt.extra["goal"].strip(), prompt.extra.get("target", "").strip()
        if not goal or not target:
            raise RainError(f"{args.dataset}: the behaviour {goal!r} lacks the field 'goal' or 'target'")
        behaviours.append(Behaviour(goal, target))
    return list(dict.fromkeys(behaviours))


def load_victims(args: argparse.Namespace) -> list[Victim]:
    """Load the models; RainError if their vocabularies differ, since a suffix is made of tokens."""
    from rain.models.loading import load_model
    from rain.text import Codec, Prompter

    victims: list[Victim] = []
    for name in names_of(args):
        model, tokenizer = load_model(name, dtype=args.dtype, device_map=device_map())
        codec = Codec(tokenizer, ends_of(model))
        victims.append(Victim(name, model.eval(), Prompter(codec, PROMPT, args.chat_template)))
        first = victims[0].prompter.codec.tokenizer
        if tokenizer.get_vocab() != first.get_vocab():
            raise RainError(f"{victims[0].name} and {name} have different vocabularies; attack them one at a time")
    return victims


def ends_of(model: Any) -> list[int]:
    """Return the ids that end an answer of this model."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def device_map() -> str | None:
    """Spread the models over the GPUs, if there are several."""
    import torch

    return "auto" if torch.cuda.device_count() > 1 else None


def attack(args: argparse.Namespace) -> None:
    """Make the suffixes that the file lacks, and say how many succeed."""
    config, behaviours = config_of(args), read_behaviours(args)
    plan = plan_of(args, config, len(behaviours))
    groups = [behaviours] if args.universal else [[each] for each in behaviours]
    store = SuffixStore(args.out)
    try:
        unfinished = [group for group in groups if not Attack([], group, plan, store).finished]
        victims = load_victims(args) if unfinished else []
        for number, group in enumerate(unfinished, 1):
            Attack(victims, group, plan, store).run(f"suffix {number}/{len(unfinished)}")
        records = [store.records[each] for each in behaviours]
    finally:
        store.close()
    won = sum(record["success"] for record in records)
    means = [sum(record[name] for record in records) / len(records) for name in ("initial_loss", "loss")]
    print(f"{args.out}: {won} of {len(records)} succeed by {args.criterion}; loss {means[0]:.3f} -> {means[1]:.3f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        attack(parser().parse_args(argv))
    except RainError as error:
        print(f"rain: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rain: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
