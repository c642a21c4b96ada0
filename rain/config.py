"""The constants of RAIN, one place, one default each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rain.errors import RainError


def setting(default: Any, help: str) -> Any:
    """Return a dataclass field whose help text also becomes the help of its command-line flag."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RainConfig:
    """All settings of one search; the defaults are those of the HH experiments.

    Source: Li et al., arXiv 2309.07124, Algorithm 1, equations 1-2, and the published code where the paper is silent.

    Raises:
        RainError: a value lies outside of its range; the message names the field.
    """

    max_simulations: int = setting(50, "maxT: simulations per committed token set, at most (count)")
    min_visits: int = setting(6, "minT: a child is committed early only with more visits than this (count)")
    value_threshold: float = setting(0.8, "Vt: a child is committed early only above this value, in [-1, 1]")
    extra_simulations: int = setting(15, "simulations that a kept root gets at least, beyond its old visits (count)")
    candidates: int = setting(10, "q: children per expansion, at most (count)")
    max_draws: int = setting(9, "draws for the q - 1 sampled candidates, at most (count; AdvBench: 19)")
    top_k: int = setting(15, "candidates are drawn from this many most likely tokens (count)")
    candidate_temperature: float = setting(1.0, "temperature of the sampled candidates (AdvBench: 2)")
    token_set_lengths: tuple[int, ...] = setting((1, 2, 4, 10), "tokens per set by the leaf's step; the last repeats")
    exploration: float = setting(2.0, "c of equation 1: weight of the prior against the value (0: ablation of table 4)")
    root_mix: float = setting(0.25, "share of the uniform distribution in the root's priors, in [0, 1]")
    similarity_update: bool = setting(True, "equation 2: update siblings with similar text (off: ablation of table 4)")
    similarity_weight: float = setting(0.2, "gamma of equation 2: discount of a similarity update, in [0, 1]")
    similarity_threshold: float = setting(0.95, "cosine from which two siblings count as similar, in [-1, 1]")
    node_addition: bool = setting(True, "grow nodes whose children are alike and all bad (off: ablation of table 4)")
    max_children: int = setting(20, "a node with this many children grows no more (count)")
    variance_threshold: float = setting(0.03, "grow a node below this norm of the children's variance per token")
    maxlen: int = setting(2048, "length limit of a response, prompt included (tokens)")
    max_new_tokens: int = setting(0, "length limit of a response without its prompt (tokens; 0: only maxlen counts)")

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "max_simulations": (1, 10**6),
            "min_visits": (0, 10**6),
            "value_threshold": (-1, 1),
            "extra_simulations": (1, 10**6),
            "candidates": (1, 1000),
            "max_draws": (0, 10**4),
            "top_k": (1, 10**6),
            "candidate_temperature": (1e-3, 100),
            "exploration": (0, 1e6),
            "root_mix": (0, 1),
            "similarity_weight": (0, 1),
            "similarity_threshold": (-1, 1),
            "max_children": (1, 10**4),
            "variance_threshold": (0, 1e6),
            "maxlen": (1, 10**9),
            "max_new_tokens": (0, 10**9),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RainError(f"{name} is {value}; it must lie in [{low}, {high}]")
        if not self.token_set_lengths or self.token_set_lengths[0] != 1 or min(self.token_set_lengths) < 1:
            raise RainError(f"token_set_lengths is {self.token_set_lengths}; it must start with 1 and be positive")
        if self.max_draws < self.candidates - 1:
            raise RainError(
                f"max_draws is {self.max_draws}; it must be at least candidates - 1 = {self.candidates - 1}"
            )

    def token_set_length(self, step: int) -> int:
        """Return the number of tokens in each child of a leaf at this step (0: root of the first search)."""
        return self.token_set_lengths[min(step, len(self.token_set_lengths) - 1)]

    def limit(self, prompt_length: int) -> int:
        """Return the length in tokens, prompt included, at which a response to this prompt ends."""
        return min(self.maxlen, prompt_length + self.max_new_tokens) if self.max_new_tokens else self.maxlen
