"""Can this evaluator tell good texts from bad ones? Measured on labelled texts, before hours of search are spent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.data.labelled import Labelled
from rain.evaluators.assessment import LENGTHS, WHOLE, Preflight, Reading, assess, prompts_by_label
from rain.evaluators.base import SPARE_TOKENS, Evaluator, SearchContext, SearchScorer
from rain.evaluators.labels import SelfEvaluator
from rain.prompts import PromptFormatter
from rain.stopping import TextStopPolicy

CONCURRENCY = 8


async def measure(
    evaluator: Evaluator,
    engine: Engine,
    formatter: PromptFormatter,
    policy: TextStopPolicy,
    texts: Sequence[Labelled],
    tick: Callable[[], object] = lambda: None,
) -> Preflight:
    """Score every text and its beginnings as a search would: after the prompt, on the session in which it writes.

    Raises:
        RainError: a class has texts to fewer than two prompts, or a prompt does not fit into the model's context.
    """
    check_classes(texts)
    await evaluator.warm_up(engine)
    gate, groups = asyncio.Semaphore(CONCURRENCY), dict[str, list[int]]()
    for i, item in enumerate(texts):
        groups.setdefault(item.question, []).append(i)
    found: dict[int, Reading] = {}

    async def read(number: int, question: str, chosen: Sequence[int]) -> None:
        prompt = formatter.encode(question)
        room = engine.context - max(len(prompt), evaluator.overhead(question)) - SPARE_TOKENS
        if room < 1:
            raise RainError(f"there is no room for a text after a prompt of {len(prompt)} tokens: {question[:60]!r}")
        async with gate:
            name = f"preflight-{number}"
            session = engine.session(name)
            scorer = evaluator.search(SearchContext(engine, session, name, prompt, question, policy))
            try:
                for i in chosen:
                    found[i] = await _read(scorer, formatter.encode_response(texts[i].response)[:room])
                    tick()
            finally:
                await scorer.close()
                await session.close()

    await asyncio.gather(*(read(number, *group) for number, group in enumerate(groups.items())))
    return assess([found[i] for i in range(len(texts))], texts)


async def _read(scorer: SearchScorer, response: Tokens) -> Reading:
    """Score a response and its beginnings."""
    lengths = [length for shorter, length in pairwise((0, *LENGTHS)) if len(response) > shorter]
    parts = [response[:length] for length in lengths] + [response]
    values = await asyncio.gather(*map(scorer.evidence, parts))
    evidence = dict(zip([*map(str, lengths), WHOLE], values, strict=True))
    labels = await scorer.read(response) if isinstance(scorer, SelfEvaluator) else None
    return Reading(await scorer.score(response), evidence, labels)


def check_classes(texts: Sequence[Labelled]) -> None:
    """Refuse texts that no calibration can be held out of."""
    if min(prompts_by_label(texts)) < 2:
        raise RainError("a preflight needs good texts to at least two prompts, and bad texts to at least two")
