"""Next-token distributions: what a pass brings back from the device, and how tokens are drawn from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

TOP = 32


@dataclass(slots=True)
class Row:
    """The distribution of the token after one slot, as far as it was brought back.

    Attributes:
        top_ids: the most likely ids, best first (at least 20 where the vocabulary has them).
        top_logits: their logits.
        log_total: logsumexp of all logits, so that ``logit - log_total`` is the raw log-probability.
        others: logits of further ids that were asked for.
    """

    top_ids: NDArray[np.int64]
    top_logits: NDArray[np.float64]
    log_total: float
    others: dict[int, float] = field(default_factory=dict)

    def logprob(self, token: int) -> float | None:
        """Return a raw log-probability, None if it was not brought back."""
        if token in self.others:
            return self.others[token] - self.log_total
        place = np.flatnonzero(self.top_ids == token)
        return float(self.top_logits[place[0]]) - self.log_total if len(place) else None

    def top(self, count: int) -> dict[int, float]:
        """Return raw log-probabilities of the most likely ids."""
        values = self.top_logits[:count] - self.log_total
        return {int(token): float(value) for token, value in zip(self.top_ids[:count], values, strict=True)}

    def draw(self, temperature: float, top_k: int, uniform: float | None) -> tuple[int, float]:
        """Draw from the top-k tokens at a temperature by inverting the distribution (None: the most likely token).

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
    logits: torch.Tensor, draws: Sequence[Draw], lookups: Sequence[tuple[int, int]], top: int = TOP
) -> tuple[list[Row], list[tuple[int, float]]]:
    """Reduce logits on their device and bring the result back in one download.

    Args:
        logits: (rows, vocabulary).
        draws: tokens to draw from the whole vocabulary.
        lookups: (row, id) pairs whose logits are wanted.
        top: number of most likely ids a row.

    Returns:
        one Row for each row, and for each draw the id and its log-probability at its temperature.
    """
    device, count = logits.device, min(top, logits.shape[1])
    logits = logits.float()
    values, ids = torch.topk(logits, count, dim=1)
    parts = [torch.logsumexp(logits, dim=1).double(), values.double().flatten(), ids.double().flatten()]
    if draws:
        asked = torch.tensor(
            [[draw.row, draw.temperature, -1.0 if draw.uniform is None else draw.uniform] for draw in draws],
            dtype=torch.float64,
        ).to(device)
        parts += _draw_whole(logits, asked)
    if lookups:
        index = torch.tensor(lookups).to(device)
        parts.append(logits[index[:, 0], index[:, 1]].double())
    flat = torch.cat(parts).cpu().numpy()
    rows = len(logits)
    totals, flat = flat[:rows], flat[rows:]
    tops, flat = flat[: rows * count].reshape(rows, count), flat[rows * count :]
    top_ids, flat = flat[: rows * count].reshape(rows, count).astype(np.int64), flat[rows * count :]
    tokens, chances, found = np.split(flat, [len(draws), 2 * len(draws)])
    result = [Row(top_ids[i], tops[i], float(totals[i])) for i in range(rows)]
    for (row, token), logit in zip(lookups, found, strict=True):
        result[row].others[token] = float(logit)
    return result, [(int(token), float(chance)) for token, chance in zip(tokens, chances, strict=True)]


def _draw_whole(logits: torch.Tensor, asked: torch.Tensor) -> list[torch.Tensor]:
    """Invert cumulative distributions on the device; ``asked``: (draws, [row, temperature, uniform])."""
    scaled = logits[asked[:, 0].long()].double() / asked[:, 1:2]
    logprobs = torch.log_softmax(scaled, dim=1)
    cumulative = logprobs.exp().cumsum(dim=1)
    drawn = torch.searchsorted(cumulative, asked[:, 2:] * cumulative[:, -1:], right=True)
    drawn = drawn.clamp(max=logits.shape[1] - 1)
    tokens = torch.where(asked[:, 2:] < 0, scaled.argmax(dim=1, keepdim=True), drawn)
    return [tokens[:, 0].double(), logprobs.gather(1, tokens)[:, 0]]
