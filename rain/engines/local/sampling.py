"""Next-token distributions: what a pass brings back from the device, and how tokens are drawn from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from rain.core.errors import UnclearFault

TOP = 32
"""Most likely tokens that are brought back of each distribution, unless more are needed."""


@dataclass(slots=True)
class NextTokenDistribution:
    """The distribution of the token after one slot, as far as it was brought back.

    Attributes:
        top_ids: the most likely ids, best first (at least TOP where the vocabulary has them).
        top_logits: their logits.
        log_total: logsumexp of all logits, so that ``logit - log_total`` is the raw log-probability.
        extra_logits: of further ids that were requested.
    """

    top_ids: NDArray[np.int64]
    top_logits: NDArray[np.float64]
    log_total: float
    extra_logits: dict[int, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a distribution with a logit that is infinite or not a number: its ``log_total`` is then, too.

        Raises:
            UnclearFault: there is one.
        """
        if not math.isfinite(self.log_total):
            raise UnclearFault(
                "the model's numbers are infinite or not numbers at all; choose another --dtype (many models are too "
                "large for float16), or check its files"
            )

    def logprob(self, token: int) -> float | None:
        """Return a raw log-probability, None if it was not brought back."""
        if token in self.extra_logits:
            return self.extra_logits[token] - self.log_total
        place = np.flatnonzero(self.top_ids == token)
        return float(self.top_logits[place[0]]) - self.log_total if len(place) else None

    def top(self, count: int) -> dict[int, float]:
        """Return raw log-probabilities of the most likely ids."""
        values = self.top_logits[:count] - self.log_total
        return {int(token): float(value) for token, value in zip(self.top_ids[:count], values, strict=True)}

    def draw(self, temperature: float, top_k: int, uniform: float | None) -> tuple[int, float]:
        """Draw from the top-k tokens at a temperature by inverting the distribution.

        Args:
            temperature: above 0.
            top_k: at least 1; draws from the whole vocabulary happen on the device (see ``Draw``).
            uniform: in [0, 1); None takes the most likely token.

        Returns:
            the id and its log-probability under the truncated, renormalised distribution.
        """
        scaled = self.top_logits[:top_k] / temperature
        logprobs = scaled - scaled[0] - math.log(np.exp(scaled - scaled[0]).sum())
        if uniform is None:
            place = 0
        else:
            cumulative = np.cumsum(np.exp(logprobs))
            place = min(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")), len(scaled) - 1)
        return int(self.top_ids[place]), float(logprobs[place])


@dataclass(frozen=True, slots=True)
class Draw:
    """A token to be drawn from the whole vocabulary: row of the logits, temperature, uniform number (None: greedy)."""

    row: int
    temperature: float
    uniform: float | None


def read_rows(
    logits: torch.Tensor,
    draws: Sequence[Draw | None],
    lookups: Sequence[tuple[int, int]],
    top: int = TOP,
    beside: Sequence[torch.Tensor] = (),
) -> tuple[list[NextTokenDistribution], list[tuple[int, float] | None], list[NDArray[np.float64]]]:
    """Reduce logits on their device and bring the result back in one download.

    Args:
        logits: (rows, vocabulary).
        draws: tokens to draw from the whole vocabulary.
        lookups: (row, id) pairs whose logits are needed.
        top: number of most likely ids a row.
        beside: what else the same download brings back.

    Returns:
        one distribution for each row; for each draw the id and its log-probability at its temperature; and ``beside``.
    """
    rows, count = len(logits), min(top, logits.shape[1])
    logits = logits.float()
    values, ids = torch.topk(logits, count, dim=1)
    wanted = {"totals": torch.logsumexp(logits, dim=1), "values": values, "ids": ids}
    wanted |= {str(i): part for i, part in enumerate(beside)}
    if actual := [draw for draw in draws if draw]:
        wanted["tokens"], wanted["logprobs"] = _draw_whole(logits, wanted["totals"], ids, actual)
    if lookups:
        index = torch.tensor(lookups).to(logits.device, non_blocking=True)
        wanted["lookups"] = logits[index[:, 0], index[:, 1]]
    flat = torch.cat([part.flatten().double() for part in wanted.values()]).cpu().numpy()  # float64 is exact for ids
    ends = np.cumsum([part.numel() for part in wanted.values()])
    found = dict(zip(wanted, np.split(flat, ends[:-1]), strict=True))
    tops = zip(
        found["ids"].astype(np.int64).reshape(rows, count),
        found["values"].reshape(rows, count),
        found["totals"].tolist(),
        strict=True,
    )
    result = [NextTokenDistribution(*row) for row in tops]
    for (row, token), logit in zip(lookups, found.get("lookups", ()), strict=True):
        result[row].extra_logits[token] = float(logit)
    drawn = zip(found.get("tokens", ()), found.get("logprobs", ()), strict=True)
    pairs = ((int(token), float(logprob)) for token, logprob in drawn)
    others = [found[str(i)].reshape(part.shape) for i, part in enumerate(beside)]
    return result, [next(pairs) if draw else None for draw in draws], others


def _draw_whole(
    logits: torch.Tensor, totals: torch.Tensor, likely: torch.Tensor, draws: Sequence[Draw]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw tokens on the device; return ids and log-probabilities, (draws,) each.

    The largest logit wins after each got noise of its own (Gumbel-max). Batches of different sizes round differently,
    by 1e-5 or so: that changes one in 100,000 tokens at most, but one in 700 if a cumulative distribution is inverted,
    which has a boundary for every token of the vocabulary. Noise costs CPUs much time, so the most likely ones compete
    with all others as one, which is as likely as they are together; only where that wins, the others compete.

    Args:
        logits: (rows, vocabulary), float32.
        totals: (rows,) logsumexp of each.
        likely: (rows, at least TOP or all) the most likely ids, best first.
        draws: what is drawn from which row.
    """
    numbers = [[draw.row, draw.temperature, -1.0 if draw.uniform is None else draw.uniform] for draw in draws]
    uploaded = torch.tensor(numbers, dtype=torch.float64).to(logits.device, non_blocking=True)
    rows, temperatures, uniforms = uploaded.T.unsqueeze(2)
    keys, rows, temperatures = (uniforms * 2.0**53).long(), rows.long(), temperatures.float()  # (draws, 1) each
    likely, totals, size = likely[rows[:, 0], :TOP], totals[rows], logits.shape[1]  # (draws, TOP), (draws, 1)
    if any(draw.temperature != 1 for draw in draws):
        totals = torch.logsumexp(logits[rows[:, 0]] / temperatures, dim=1, keepdim=True)
    logprobs = (logits[rows, likely] / temperatures).double() - totals
    tokens = torch.where(uniforms < 0, likely[:, :1], _draw_likely(logprobs, likely, keys, size))
    beyond = tokens[:, 0] == size
    # A GPU computes it for all draws, rather than wait until it is known for which.
    rest = beyond.nonzero()[:, 0] if logits.device.type == "cpu" else torch.arange(len(draws), device=logits.device)
    found = _draw_others(logits[rows[rest, 0]] / temperatures[rest], likely[rest], keys[rest])
    tokens[rest] = torch.where(beyond[rest, None], found, tokens[rest])
    return tokens[:, 0], (logits[rows, tokens] / temperatures - totals)[:, 0]


def _draw_likely(logprobs: torch.Tensor, likely: torch.Tensor, keys: torch.Tensor, size: int) -> torch.Tensor:
    """Let the likely tokens compete with all others as one; return ids, or ``size`` where those win: (draws, 1).

    Args:
        logprobs: (draws, TOP).
        likely: (draws, TOP) ids.
        keys: (draws, 1), of the noise.
        size: of the vocabulary.
    """
    others = (1 - logprobs.exp().sum(dim=1, keepdim=True)).clamp(min=0) * (size > likely.shape[1])  # their probability
    contestants = torch.cat([likely, torch.full_like(keys, size)], dim=1)  # (draws, TOP + 1)
    scores = torch.cat([logprobs, others.log()], dim=1) + gumbel_noise(keys, contestants)
    return contestants.gather(1, scores.argmax(dim=1, keepdim=True))


def _draw_others(logits: torch.Tensor, likely: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Let all tokens but the likely ones compete; return ids: (draws, 1); logits: (draws, vocabulary)."""
    scores = logits + gumbel_noise(keys, torch.arange(logits.shape[1], device=logits.device))
    return scores.scatter(1, likely, -torch.inf).argmax(dim=1, keepdim=True)


def gumbel_noise(keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return numbers of the standard Gumbel distribution, in float32: (keys, places).

    Each depends on its key and its place alone, not on the device: the output after ``place`` others of SplitMix64
    (Steele, Lea and Flood 2014), started from the key.

    Args:
        keys: (keys, 1), int64.
        places: (keys, places) or, the same for all, (places,), int64.
    """
    state = keys + (places + 1) * -7046029254386353131  # 0x9E3779B97F4A7C15, signed
    state = (state ^ _shift(state, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    state = (state ^ _shift(state, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    uniform = (_shift(state ^ _shift(state, 31), 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform).float())


def _shift(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift int64 to the right as if it had no sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
