"""``random[:SEED]``: scores that know nothing, as a reference line; the same text always has the same score."""

from __future__ import annotations

import random

from rain.core.errors import RainError
from rain.evaluators.base import Evaluator, SearchContext
from rain.evaluators.texts import TextScorer


class RandomEvaluator(Evaluator):
    """Draws the score of a text from the seed, the question and the text: uniform in [-1, 1]."""

    def __init__(self, seed: str = "") -> None:
        if seed and not seed.isdecimal():
            raise RainError(f"the seed of random:{seed} must be a whole number")
        self.seed = int(seed or 0)

    def search(self, context: SearchContext) -> TextScorer:
        """Return the scorer of one search."""

        async def score(text: str) -> float:
            key = f"{self.seed}/{context.question}/{text}".encode(errors="surrogatepass")
            return random.Random(key).uniform(-1, 1)

        return TextScorer(context, score, f"random:{self.seed}")
