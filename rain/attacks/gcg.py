"""Greedy coordinate gradient (GCG): the suffix attack that the paper's AdvBench figures defend against.

Source: Zou et al., "Universal and Transferable Adversarial Attacks on Aligned Language Models", arXiv 2307.15043,
algorithm 1 (one behaviour) and its aggregation over behaviours and models (algorithm 2, without its schedule).
One step: the gradient of the target's loss by the one-hot suffix names the top-k swaps of each position; a batch of
single swaps is drawn from them; those that would be tokenised differently as text are dropped; the lowest loss wins.
Keep-best rule: the suffix changes only for a strictly lower loss, so the loss never rises. (The published code moves to
the best candidate even where it is worse, and reports the lowest loss of the walk.)
"""

import copy
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rain.attacks.config import GCGConfig
from rain.attacks.prompt import SuffixPrompt
from rain.core.errors import RainError
from rain.core.types import Tokens


class State(NamedTuple):
    """How far an attack has come."""

    suffix: Tokens
    loss: float  # mean over the objectives, in nats per target token
    steps: int = 0  # steps done
    tried: int = 0  # candidates evaluated in the last step


class Objective:
    """The target's loss under one model for one behaviour, as a function of the suffix; the head is cached."""

    def __init__(self, model: PreTrainedModel, prompt: SuffixPrompt) -> None:
        self.model, self.prompt = model, prompt
        self.device = model.get_input_embeddings().weight.device
        self.target = torch.tensor(prompt.target, device=self.device)
        self.rest = torch.tensor(prompt.tail + prompt.target[:-1], device=self.device)
        self.cache = DynamicCache()
        with torch.no_grad():
            ids = torch.tensor([prompt.head], device=self.device)
            model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def losses(self, suffixes: Tensor) -> Tensor:
        """Cross-entropy of the target, mean per token: suffixes [n, length] of ids -> [n] float32 on the CPU."""
        try:
            return self._losses(suffixes)
        except torch.OutOfMemoryError:
            if len(suffixes) == 1:
                raise
        torch.cuda.empty_cache()
        return torch.cat([self.losses(half) for half in suffixes.tensor_split(2)])

    @torch.no_grad()
    def _losses(self, suffixes: Tensor) -> Tensor:
        rest = self.rest.expand(len(suffixes), -1)
        ids = torch.cat([suffixes.to(self.device), rest], dim=1)
        return self._cross_entropy(self.model.get_input_embeddings()(ids)).cpu()

    def _cross_entropy(self, embeddings: Tensor) -> Tensor:
        """Loss of each row: embeddings [n, suffix + tail + target - 1, width] -> [n]."""
        output = self.model(
            inputs_embeds=embeddings,
            past_key_values=fork(self.cache, len(embeddings)),
            use_cache=True,
            logits_to_keep=len(self.target),
        )
        logits = output.logits.flatten(0, 1)  # vocabulary last: summed over another axis, float32 is off by 1e-4
        targets = self.target.to(logits.device).repeat(len(embeddings))
        losses = torch.nn.functional.cross_entropy(widened(logits), targets, reduction="none")
        return losses.view(len(embeddings), -1).mean(dim=1)

    def gradient(self, suffix: Tokens) -> Tensor:
        """Gradient of the loss by the one-hot suffix: [length, vocabulary] on the CPU.

        The embedding is linear in the one-hot rows, so the gradient by them is the one by the suffix's embeddings times
        the transposed table (as the model scales it: the table is read through the embedding layer).
        """
        embed = self.model.get_input_embeddings()
        with torch.no_grad():
            table = embed(torch.arange(embed.weight.shape[0], device=self.device))
            rest = embed(self.rest)
        rows = table[list(suffix)].requires_grad_()
        loss = self._cross_entropy(torch.cat([rows, rest])[None]).sum()
        (by_rows,) = torch.autograd.grad(loss, rows)
        return widened(by_rows @ table.T).cpu()

    @torch.no_grad()
    def answer(self, suffix: Tokens, max_tokens: int, stop: frozenset[int]) -> Tokens:
        """Return the greedy continuation of the prompt with this suffix, without the stop token."""
        cache, tokens = fork(self.cache, 1), list[int]()
        step = list(suffix + self.prompt.tail)
        while len(tokens) < max_tokens:
            ids = torch.tensor([step], device=self.device)
            output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            step = [int(output.logits[0, -1].argmax())]
            if step[0] in stop:
                break
            tokens += step
        return tuple(tokens)


def widened(values: Tensor) -> Tensor:
    """Return values in float32, or as they are in float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def fork(cache: DynamicCache, rows: int) -> DynamicCache:
    """Return a cache that starts as `rows` equal rows of a one-row cache, whose tensors it shares."""
    twin = DynamicCache()
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in twin.layers:
        if layer.is_initialized:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
    return twin


def mean_losses(objectives: Sequence[Objective], suffixes: Sequence[Tokens], chunk: int) -> Tensor:
    """Loss of each suffix, mean over the objectives: [n]."""
    ids = torch.tensor(suffixes)
    rows = [torch.cat([each.losses(part) for part in torch.split(ids, chunk)]) for each in objectives]
    return torch.stack(rows).mean(dim=0)


def sum_gradient(objectives: Sequence[Objective], suffix: Tokens) -> Tensor:
    """Gradient [length, vocabulary] summed over the behaviours of each model.

    With several models, each model's sum is first scaled to norm 1 at every position (as in the published code).
    """
    by_model: dict[int, Tensor] = {}
    for each in objectives:
        gradient = each.gradient(suffix)
        by_model[id(each.model)] = by_model.get(id(each.model), torch.zeros_like(gradient)) + gradient
    sums = list(by_model.values())
    if len(sums) == 1:
        return sums[0]
    width = min(each.shape[1] for each in sums)  # tables may be padded beyond the vocabulary
    scaled = [each / each.norm(dim=1, keepdim=True).clamp_min(1e-12) for each in sums]
    return torch.stack([each[:, :width] for each in scaled]).sum(dim=0)


def allowed_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> Tensor:
    """Mark the tokens that a suffix may hold, printable ASCII and not special: [size] of bool."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    texts = tokenizer.batch_decode([[i] for i in range(min(size, len(tokenizer)))])
    allowed = torch.zeros(size, dtype=torch.bool)
    for i, text in enumerate(texts):
        allowed[i] = i not in special and text.isascii() and text.isprintable() and text != ""
    return allowed


def swaps(gradient: Tensor, suffix: Tokens, config: GCGConfig, generator: torch.Generator) -> list[Tokens]:
    """Draw `batch` suffixes that differ from this one in one token, distinct, in the order drawn.

    The positions take turns evenly; the token is uniform among the position's top-k of the negative gradient [length,
    vocabulary]; entries of +inf are never drawn.
    """
    usable = int(torch.isfinite(gradient).sum(dim=1).min())
    if not usable:
        raise RainError("the gradient of the target's loss is not finite; use --dtype float32 or bfloat16")
    top = (-gradient).topk(min(config.topk, usable), dim=1).indices
    positions = torch.arange(config.batch) * len(suffix) // config.batch
    picks = torch.randint(top.shape[1], (config.batch,), generator=generator)
    drawn = torch.tensor(suffix).repeat(config.batch, 1)
    drawn[torch.arange(config.batch), positions] = top[positions, picks]
    return [row for row in dict.fromkeys(map(tuple, drawn.tolist())) if row != suffix]


def step(objectives: Sequence[Objective], state: State, allowed: Tensor, config: GCGConfig) -> State:
    """One step of the attack; depends on nothing but its arguments (the draw's seed: seed, goals and step number)."""
    gradient = sum_gradient(objectives, state.suffix)
    gradient[:, ~allowed[: gradient.shape[1]]] = torch.inf
    goals = [each.prompt.goal for each in objectives]
    digest = hashlib.sha256(repr((config.seed, goals, state.steps)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    candidates = swaps(gradient, state.suffix, config, generator)
    for prompt in dict.fromkeys(each.prompt for each in objectives):
        candidates = prompt.stable(candidates)
    if not candidates:
        return state._replace(steps=state.steps + 1, tried=0)
    losses = mean_losses(objectives, candidates, config.chunk)
    best = int(losses.nan_to_num(torch.inf).argmin())
    better = float(losses[best]) < state.loss
    suffix, loss = (candidates[best], float(losses[best])) if better else (state.suffix, state.loss)
    return State(suffix, loss, state.steps + 1, len(candidates))
