"""One row of the benchmark: a number of searches, or of greedy answers, on one engine."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rain.aligner import Aligner
from rain.bench.machine import forget_peak_memory, free_memory, peak_memory_mib
from rain.configs import AlignerConfig
from rain.core.config import Budget
from rain.core.engine import Engine
from rain.costs import total
from rain.data.datasets import Prompt
from rain.embedding import SentenceEncoder
from rain.engines.registry import PlacementConfig, open_loaded
from rain.generation import Answer, PreparedPrompt
from rain.models.loading import load_model, load_tokenizer, placement_options
from rain.models.random_weights import HashTokenizer, random_model, read_shape
from rain.trace.record import Append

if TYPE_CHECKING:
    from rain.bench.passes import PassMeter


@dataclass
class Bench:
    """What is measured, and with what.

    Attributes:
        config: of the searches.
        placement: of the model.
        prompts: a row takes as many of them as it runs at once, see ``first``.
        encoder: the sentence encoder.
        random: architecture of a model with random weights, see ``random_model``; "": the configuration's model.
        bandwidth: of the memory of the model's device (bytes a second).
        simulations: of each search, which ends after them; 0: with its response.
        weights: bytes of the model's weights that a pass reads, known once it is loaded.
    """

    config: AlignerConfig
    placement: PlacementConfig
    prompts: list[Prompt]
    encoder: SentenceEncoder
    random: str = ""
    bandwidth: float = 0.0
    simulations: int = 0
    weights: int = field(default=0, init=False)

    @property
    def in_float32(self) -> bool:
        """Whether the model computes in float32 here."""
        import torch

        return placement_options(self.config.model.dtype, self.placement.device_map)["dtype"] is torch.float32

    def load(self) -> tuple[Any, Any]:
        """Load the model anew: an engine changes the attention of the one it gets."""
        from rain.bench.passes import weight_bytes

        free_memory()
        config, device_map = self.config.model, self.placement.device_map
        if self.random:
            loaded = random_model(self.random, config.dtype, device_map)
            self.weights = weight_bytes(loaded[0])
            return loaded
        return load_model(config.modelname, dtype=config.dtype, device_map=device_map)

    def tokenizer(self) -> Any:
        """Return the model's tokenizer alone."""
        if self.random:
            return HashTokenizer(read_shape(self.random).vocab_size)
        return load_tokenizer(self.config.model.modelname)

    def first(self, count: int) -> list[Prompt]:
        """Return this many prompts; where they begin again, they have other ids, and so other random numbers."""
        size = len(self.prompts)
        rounds = [f"/{number // size}" if number >= size else "" for number in range(count)]
        return [replace(self.prompts[i % size], id=self.prompts[i % size].id + rounds[i]) for i in range(count)]

    def meter(self, engine: Engine) -> PassMeter | None:
        """Return what measures each pass of the tree cache, with random weights; None elsewhere."""
        from rain.bench.passes import PassMeter
        from rain.engines.local.engine import HfEngine

        if self.random and isinstance(engine, HfEngine):
            return PassMeter(engine, self.weights, self.bandwidth)
        return None

    def tree_aligner(self) -> Aligner:
        """Return an aligner on the tree cache, which is empty."""
        model, tokenizer = self.load()
        engine = open_loaded(model, tokenizer, self.placement)
        return self.aligner(engine, tokenizer, prefetch=self.placement.prefetch)

    def aligner(self, engine: Engine, tokenizer: Any, *, eager: bool = False, prefetch: int = 0) -> Aligner:
        """Return what runs the searches and greedy answers on an engine."""
        return Aligner(self.config, engine, tokenizer, self.encoder, eager=eager, prefetch=prefetch)


async def run_all(
    bench: Bench,
    aligner: Aligner,
    answer: Callable[[PreparedPrompt], Awaitable[Answer]],
    count: int,
    width: int,
    trace: Append | None = None,
) -> list[Answer]:
    """Answer the first ``count`` prompts, at most ``width`` at once; ``trace`` takes what is recorded of the first."""
    gate = asyncio.Semaphore(width)

    async def one(number: int, prompt: Prompt) -> Answer:
        async with gate:
            return await answer(aligner.prepare(prompt.id, prompt.question, trace=None if number else trace))

    return await asyncio.gather(*(one(*each) for each in enumerate(bench.first(count))))


async def run_searches(bench: Bench, aligner: Aligner, count: int, width: int) -> dict[str, Any]:
    """Search the answers of ``count`` prompts, at most ``width`` at once.

    Returns:
        the row: see ``summarise``; where searches end early, which nodes the first one visited; of engines in this
        process also the shares of the time in the model, in the encoder (on a CPU they take turns), and outside both:
        in the search (with batching and sampling), or idle; with random weights, what single passes take
        (``PassMeter``).
    """
    forget_peak_memory()
    await aligner.warm_up()
    meter, processor = bench.meter(aligner.engine), time.process_time()
    embedded, before = bench.encoder.seconds, aligner.engine.stats()
    busy, started = time.thread_time(), time.perf_counter()
    budget, members = (Budget(simulations=bench.simulations) if bench.simulations else None), bytearray()
    trace = None if budget is None else (lambda member, first: members.extend(member))
    answers = await run_all(bench, aligner, partial(aligner.generate, budget=budget), count, width, trace)
    wall, busy = time.perf_counter() - started, time.thread_time() - busy
    row, after = summarise(answers, wall), aligner.engine.stats()
    row["peak_memory_mib"] = peak_memory_mib(aligner.engine)
    if members:
        row["visited"] = visited(bytes(members))
    row["cpu_seconds_per_simulation"] = (time.process_time() - processor) / row["simulations"]
    row["dtype"] = aligner.engine.dtype
    row["embedding_share"] = (bench.encoder.seconds - embedded) / wall
    if after.passes:
        row["model_share"] = (after.model_seconds - before.model_seconds) / wall
        in_turn = row["embedding_share"] if bench.encoder.takes_turns else 0.0
        row["outside_models_share"] = 1 - row["model_share"] - in_turn
        row["idle_share"] = min(row["outside_models_share"], max(0.0, 1 - busy / wall))
        row["search_share"] = row["outside_models_share"] - row["idle_share"]
        row["evictions"], row["passes"] = after.evictions, after.passes - before.passes
    calls = row.get("passes") or row["forward_passes"]  # a pass that several searches share is one call
    row["calls_per_simulation"] = calls / row["simulations"]
    if meter:
        row["pass"] = meter.summary()
    return row


def visited(recorded: bytes) -> list[str]:
    """Return the text of each node that a recorded search went to, in their order."""
    texts, found = [""], []
    for event in map(json.loads, gzip.decompress(recorded).splitlines()):
        if event["event"] == "nodes":
            texts += [texts[event["parent"]] + text for text in event["texts"]]
        elif event["event"] == "visit":
            found.append(texts[event["path"][-1]])
    return found


def summarise(answers: Sequence[Answer], wall: float) -> dict[str, Any]:
    """Return totals of finished searches, and seconds per simulation and per committed token."""
    sums = total(answer.cost for answer in answers)
    tokens, distinct = sum(len(answer.tokens) for answer in answers), sums.get("tokens_distinct") or None
    return {
        "prompts": len(answers),
        "seconds": wall,
        "simulations": sums["simulations"],
        "committed_tokens": tokens,
        "seconds_per_simulation": wall / sums["simulations"],
        "seconds_per_committed_token": wall / tokens if tokens else None,
        "tokens_computed": sums["tokens_computed"],
        "distinct_tokens": distinct,
        "tokens_per_simulation": sums["tokens_computed"] / sums["simulations"],
        "computed_over_distinct": sums["tokens_computed"] / distinct if distinct else None,
        "forward_passes": sums["forward_passes"],
        "answers": [answer.text for answer in answers],
    }


async def run_greedy(bench: Bench, aligner: Aligner, count: int, width: int) -> dict[str, float]:
    """Answer ``count`` prompts by greedy decoding, ``width`` at once; return seconds and tokens per answer."""
    await aligner.warm_up()
    started = time.perf_counter()
    answers = await run_all(bench, aligner, aligner.generate_baseline, count, width)
    seconds = (time.perf_counter() - started) / len(answers)
    return {"seconds": seconds, "tokens": sum(len(answer.tokens) for answer in answers) / len(answers)}
