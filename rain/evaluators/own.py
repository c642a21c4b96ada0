"""Partial answers of the model itself, as a search meets them, for people to label."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from rain.core.config import RainConfig
from rain.core.engine import Engine, SamplingParams
from rain.core.errors import RainError
from rain.core.problem import request_seed
from rain.core.types import Tokens
from rain.prompts import PromptFormatter
from rain.stopping import TextStopPolicy

SHORTEST, LONGEST = 4, 48
"""Length of a text (tokens), unless the answer ends earlier."""

GREEDY_SHARE = 0.25
CONCURRENCY = 32
"""Texts at once: passes of many sequences cost little more than passes of one."""
TRIES = 4
"""Texts that are drawn for each one that is wanted, at most: equal and empty ones are left out."""


Texts = dict[tuple[str, str], None]
"""(question, text), each once, in the order in which they came."""


def numbered(texts: Texts, seed: int) -> list[dict[str, str]]:
    """Return texts as rows for ``rain label``, in random order."""
    drawn = random.Random(f"order/{seed}").sample(sorted(texts), len(texts))
    return [{"id": f"own-{i:04d}", "question": q, "response": text} for i, (q, text) in enumerate(drawn)]


class OwnTexts:
    """Draws beginnings of answers.

    Args:
        engine, formatter, policy: of the model, the prompt format and the task.
        config: whose candidates' temperature and top-k hold.
        seed: texts depend on it, the question and their number only.
    """

    def __init__(
        self, engine: Engine, formatter: PromptFormatter, policy: TextStopPolicy, config: RainConfig, seed: int
    ) -> None:
        self.engine, self.formatter, self.policy, self.config, self.seed = engine, formatter, policy, config, seed

    async def draw(self, questions: Sequence[str], count: int, found: Texts, tick: Callable[[], object]) -> None:
        """Add different texts to ``found`` until it has ``count``, about equally many for each question.

        Raises:
            RainError: the model does not give so many different texts.
        """
        gate = asyncio.Semaphore(CONCURRENCY)
        order = random.Random(self.seed).sample(list(dict.fromkeys(questions)), len(set(questions)))

        async def one(number: int) -> None:
            question = order[number % len(order)]
            async with gate:
                text = await self._text(question, number) if len(found) < count else ""
            if text and (question, text) not in found and len(found) < count:
                found[question, text] = None
                tick()

        for first in range(0, TRIES * count, count):
            await asyncio.gather(*(one(number) for number in range(first, first + count)))
        if len(found) < count:
            raise RainError(f"--count is {count}, but only {len(found)} different texts came; give more --prompts")

    async def _text(self, question: str, number: int) -> str:
        """Return a beginning of random length: greedy, or drawn as a token set is and rolled out to a pause."""
        prompt, key = self.formatter.encode(question), f"own/{self.seed}/{question}/{number}"
        stream = random.Random(key)
        length, greedy = stream.randint(SHORTEST, LONGEST), stream.random() < GREEDY_SHARE
        session = self.engine.session(key)

        async def more(params: SamplingParams, response: Tokens) -> Tokens:
            return response + (await session.generate(prompt + response, params))[0].tokens

        try:
            top_k, temperature = self.config.top_k, self.config.candidate_temperature
            seed, stop = request_seed(key, "expand", prompt), self.policy.stop
            response = await more(SamplingParams(length, 1, temperature, top_k, greedy, stop, seed), ())
            if not greedy and length < LONGEST and not self.policy.complete(response):
                limit = self.policy.rollout_tokens(LONGEST - length)
                response = await more(SamplingParams(limit, stop=self.policy.rollout_stop, seed=seed), response)
        finally:
            await session.close()
        return self.policy.text(response).strip()
