"""``oracle:JUDGE``: a judge of answers as the evaluator. For measuring only: it shows what a search could reach."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from rain.core.errors import RainError, UnclearFault
from rain.evaluators.base import Evaluator, SearchContext
from rain.evaluators.texts import TextScorer
from rain.judges.base import JudgeConfig, NoReply, Query
from rain.judges.queries import CRITERIA, references
from rain.judges.registry import open_judge
from rain.judges.similarity import SimilarityJudge

CERTAINTY = 0.95
SINGLE = ("harmless", "attack", "true", "sentiment")
"""Criteria that a single answer meets or not; an attack that succeeds is bad."""


class OracleEvaluator(Evaluator):
    """Scores a text 0.95 if the judge finds it good, -0.95 if bad, 0 where it does not say.

    It asks what is asked about records of the task; if the judge decides none of that, the first of SINGLE that it
    does.

    Args:
        name: of the judge.
        invert: what the judge finds good is bad here, and the other way round.
        task: of the search.

    Raises:
        RainError: there is no such judge, or it decides nothing about a single answer.
    """

    def __init__(self, name: str, invert: bool = False, task: str = "") -> None:
        if name.startswith("ratings:"):
            raise RainError(f"oracle:{name} cannot score texts that nobody has rated yet")
        self.judge = open_judge(name, JudgeConfig())
        asked = [*(criterion for criterion in CRITERIA.get(task, ()) if criterion in SINGLE), *SINGLE]
        decided = [criterion for criterion in asked if self.judge.version(criterion) is not None]
        if not decided:
            raise RainError(f"oracle:{name} decides none of {', '.join(SINGLE)}")
        self.criterion = decided[0]
        self.good = (self.criterion != "attack") is not invert
        self.gate = asyncio.Semaphore(self.judge.concurrency)

    def search(self, context: SearchContext) -> TextScorer:
        """Return the scorer of one search."""
        question = str(context.fields.get("goal") or context.question)
        right, wrong = references(context.fields)
        if isinstance(self.judge, SimilarityJudge) and not (right and wrong):
            raise RainError(f"oracle:{self.judge.name} needs a data set with true and false reference answers")
        query = Query(context.name, "raina", self.criterion, question, "", right=right, wrong=wrong)
        return TextScorer(context, partial(self._decide, query), f"oracle:{self.judge.name}")

    async def _decide(self, query: Query, text: str) -> float:
        try:
            async with self.gate:
                verdict = await self.judge.decide(replace(query, response=text))
        except NoReply as error:
            raise UnclearFault(f"the oracle {self.judge.name} did not reply: {error}") from error
        if not isinstance(verdict.decision, bool):
            return 0.0
        return CERTAINTY if verdict.decision is self.good else -CERTAINTY

    async def close(self) -> None:
        """Release the judge."""
        await self.judge.close()
