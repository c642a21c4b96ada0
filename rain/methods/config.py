"""Which method answers, and what an answer may cost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rain.core.config import Budget
from rain.core.errors import RainError
from rain.core.fields import flag, setting, validate

METHODS = ("rain", "best-of-n", "rejection", "greedy", "sample", "remind", "refine")

MOST_DRAFTS = 4096
"""Of one answer."""

USED_BY = {
    "n": ("best-of-n", "rejection"),
    "n_top_k": ("best-of-n", "rejection", "sample"),
    "rounds": ("refine",),
    "early_share": ("rain",),
}
"""Settings that some methods alone follow."""


def method_title(method: str) -> str:
    """Return the name of a method for tables, in which the greedy answers that every run has are called "greedy"."""
    return {"rain": "RAIN", "greedy": "greedy (method)"}.get(method, method)


@dataclass(frozen=True)
class MethodConfig:
    """The method of a run; docs/methods.md says what each does.

    Raises:
        RainError: a value is out of range, or nothing ends the drafts.
    """

    method: str = setting("rain", "what answers (docs/methods.md)", choices=METHODS, basic=True)
    n: int = setting(
        16, "best-of-n, rejection: drafts per answer (count; 0: as many as --budget allows)", low=0, high=MOST_DRAFTS
    )
    n_top_k: int | None = setting(
        None, "drafts are drawn from this many most likely tokens (0: all; default: --top-k)", low=0, high=10**6
    )
    rounds: int = setting(1, "refine: how often the answer is criticised and rewritten (count)", low=1, high=100)
    budget: str = setting(
        "", "what an answer may cost: tokens=N, seconds=N or simulations=N (drafts), several with commas", basic=True
    )

    def __post_init__(self) -> None:
        validate(self)
        limited = self.limits != Budget()
        if self.n == 0 and self.method in USED_BY["n"] and not limited:
            raise RainError("--n is 0; it must be at least 1 unless a --budget ends the drafts")

    @property
    def limits(self) -> Budget:
        """What an answer may cost."""
        return Budget.parse(self.budget)

    def check(self, given: Collection[str], task: str, aim: str) -> None:
        """Refuse settings that were given, but that this method does not follow, and a task that does not suit it.

        Raises:
            RainError: the message names the flag.
        """
        if self.method in ("remind", "refine") and not aim:
            raise RainError(f"--method {self.method} needs an aim for the answers, but task {task} has none")
        for name, methods in USED_BY.items():
            if name in given and self.method not in methods:
                raise RainError(f"{flag(name)} is for --method {' or '.join(methods)}, not {self.method}; leave it out")
