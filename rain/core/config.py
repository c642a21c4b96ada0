"""The constants of RAIN, one place, one default each."""

from __future__ import annotations

from dataclasses import dataclass

from rain.core.errors import RainError
from rain.core.fields import setting, validate

LONGEST_SET = 64
"""Most tokens of a token set: a stop string is looked for in the end of a text, which is at least this long."""


@dataclass(frozen=True)
class RainConfig:
    """All constants of one search; the defaults are those of the HH experiments.

    Source: Li et al., arXiv 2309.07124, Algorithm 1, equations 1-2, and the published code where the paper is silent.

    Raises:
        RainError: a value is outside of its range; the message names the flag.
    """

    max_simulations: int = setting(
        50, "maxT: maximum simulations per token set; see --extra-simulations (count)", low=1, high=10**6, basic=True
    )
    min_visits: int = setting(
        6, "minT: a child is committed early only with more visits than this (count)", low=0, high=10**6
    )
    value_threshold: float = setting(
        0.8, "Vt: a child is committed early only above this value, in [-1, 1]", low=-1, high=1
    )
    extra_simulations: int = setting(
        15, "new simulations that each token set may take, even beyond --max-simulations (count)", low=1, high=10**6
    )
    early_share: float = setting(
        0.0, "each token set gets this share fewer simulations than the one before, of the same total", low=0, high=0.9
    )
    candidates: int = setting(10, "q: maximum children per expansion (count)", low=1, high=1000)
    max_draws: int = setting(
        9, "maximum draws for the q - 1 sampled candidates (count; AdvBench: 19)", low=0, high=10**4
    )
    top_k: int = setting(15, "candidates are drawn from this many most likely tokens (count)", low=1, high=10**6)
    candidate_temperature: float = setting(
        1.0, "temperature of the sampled candidates (AdvBench: 2)", low=1e-3, high=100
    )
    token_set_lengths: tuple[int, ...] = setting((1, 2, 4, 10), "tokens per set by the leaf's step; the last repeats")
    exploration: float = setting(
        2.0, "c of equation 1: weight of the prior against the value (0: ablation of table 4)", low=0, high=1e6
    )
    root_mix: float = setting(0.25, "share of the uniform distribution in the root's priors, in [0, 1]", low=0, high=1)
    similarity_update: bool = setting(True, "equation 2: update siblings with similar text (off: ablation of table 4)")
    similarity_weight: float = setting(
        0.2, "gamma of equation 2: discount of a similarity update, in [0, 1]", low=0, high=1
    )
    similarity_threshold: float = setting(
        0.95, "cosine from which two siblings count as similar, in [0, 1]", low=0, high=1
    )
    node_addition: bool = setting(True, "add children to nodes whose children are alike and bad (off: table 4)")
    max_children: int = setting(20, "node addition stops at this many children (count)", low=1, high=10**4)
    variance_threshold: float = setting(
        0.03, "add a child if the norm of the children's variance is below this, per token", low=0, high=1e6
    )
    maxlen: int = setting(2048, "maximum length of a response, prompt included (tokens)", low=1, high=10**9)
    max_new_tokens: int = setting(
        0, "maximum length of a response without its prompt (tokens; 0: only maxlen)", low=0, high=10**9, basic=True
    )

    def __post_init__(self) -> None:
        validate(self)
        lengths = self.token_set_lengths
        if not lengths or lengths[0] != 1 or min(lengths) < 1 or max(lengths) > LONGEST_SET:
            raise RainError(f"--token-set-lengths is {lengths}; it must start with 1, all in [1, {LONGEST_SET}]")
        if self.max_draws < self.candidates - 1:
            raise RainError(
                f"--max-draws is {self.max_draws}; it must be at least candidates - 1 = {self.candidates - 1}"
            )

    def token_set_length(self, step: int) -> int:
        """Return the number of tokens in each child of a leaf at this step (0: root of the first search)."""
        return self.token_set_lengths[min(step, len(self.token_set_lengths) - 1)]

    def new_simulations(self, step: int, longest: int, kept: int) -> int:
        """Return how many simulations a root may run at most (inner loop of Algorithm 1).

        Until it has max(maxT, inherited visits + 15), as in the published code (``gmeval`` in HH/main.py).

        With ``early_share`` s, maxT and the extra simulations are multiplied by a factor proportional to (1 - s)^step,
        such that the sum of maxT over the token sets of the longest answer is that of s = 0 (after AdaSearch, arXiv
        2510.23334). What a root inherits counts towards maxT as ever.

        Args:
            step: of the root: token sets that are committed already (count).
            longest: length of the longest answer (tokens).
            kept: visits that the root inherits (count).
        """
        most, extra = self.max_simulations, self.extra_simulations
        if self.early_share:
            keep, sets = 1 - self.early_share, self.token_sets(longest)
            upto = [round(most * sets * (1 - keep**count) / (1 - keep**sets)) for count in (step, step + 1)]
            most = upto[1] - upto[0]
            extra = max(1, round(extra * most / self.max_simulations))
        return max(most, kept + extra) - kept

    def token_sets(self, length: int) -> int:
        """Return how many token sets make an answer of this many tokens."""
        sets = 0
        while length > 0:
            length -= self.token_set_length(sets)
            sets += 1
        return sets

    def limit(self, prompt_length: int) -> int:
        """Return the length in tokens, prompt included, at which a response to this prompt ends."""
        return min(self.maxlen, prompt_length + self.max_new_tokens) if self.max_new_tokens else self.maxlen


@dataclass(frozen=True)
class Budget:
    """What one answer may cost; 0 means no limit. At its end the text committed so far is the answer.

    Attributes:
        simulations: of the whole response (count).
        tokens: computed by the model for this answer, evaluations included.
        seconds: wall-clock time since the answer was begun.
    """

    simulations: int = setting(0, "simulations per answer (count; 0: no limit)", low=0)
    tokens: int = setting(0, "tokens computed per answer (0: no limit)", low=0)
    seconds: float = setting(0.0, "wall-clock seconds per answer (0: no limit)", low=0)

    def __post_init__(self) -> None:
        validate(self)

    @classmethod
    def parse(cls, text: str, flag: str = "--budget") -> Budget:
        """Read ``tokens=N,seconds=N,simulations=N``, any of them; an empty text means no limit.

        Args:
            text: what to read.
            flag: where it comes from, for the message.

        Raises:
            RainError: it is written otherwise, or a limit is not above 0.
        """
        limits: dict[str, float] = {}
        try:
            for part in text.split(",") if text else ():
                name, _, value = part.strip().partition("=")
                limit = {"simulations": int, "tokens": int, "seconds": float}[name](value)
                if name in limits or not 0 < limit < float("inf"):
                    raise ValueError
                limits[name] = limit
        except (KeyError, ValueError):
            raise RainError(
                f"{flag} is {text!r}; it must be tokens=N, seconds=N or simulations=N, each once, commas in between"
            ) from None
        return cls(**limits)  # type: ignore[arg-type]

    def spent(self, simulations: int, tokens: int, seconds: float) -> bool:
        """Tell whether any of the limits has been reached."""
        used = ((self.simulations, simulations), (self.tokens, tokens), (self.seconds, seconds))
        return any(limit and value >= limit for limit, value in used)
