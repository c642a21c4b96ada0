"""A model that only judges: it keeps what it is asked and says what it is told to say."""

from __future__ import annotations

import asyncio

from rain.core.engine import Engine, Session, Usage
from rain.engines.toy import ToyEngine
from rain.evaluators.base import SearchContext
from rain.evaluators.labels import EvaluationConfig, LabelEvaluator
from rain.stopping import TextStopPolicy
from rain.text import TokenizerAdapter


class Judge(Engine, Session):
    """Gives each label a log-probability by the ids that it follows; keeps those ids with the labels."""

    def __init__(self, answer=lambda prefix, label: -1.0):
        self.answer, self.asked, self.committed, self.cached, self.usage = answer, [], [], [], Usage()

    def session(self, name):
        return self

    async def cache_prefix(self, prefix):
        self.cached.append(tuple(prefix))

    async def generate(self, prefix, params):
        raise AssertionError("an evaluation generates nothing")

    async def next_logprobs(self, prefix, *, top=0, ids=()):
        self.asked.append((tuple(prefix), tuple(ids)))
        await asyncio.sleep(0)
        return {label: self.answer(tuple(prefix), label) for label in ids}

    def commit(self, prefix):
        self.committed.append(tuple(prefix))


def open_scorer(prompt, judge, question="Why?", stop=(), cut=False, **config):
    """Return the scorer of one search."""
    context = SearchContext(judge, judge, "p", (), question, TextStopPolicy(prompt.adapter, stop))
    return LabelEvaluator(prompt, EvaluationConfig(**config), cut).search(context)


def text_context(question="Why?", **fields):
    """Return what an evaluator learns of a search of the toy model (one token a byte)."""
    engine = ToyEngine()
    policy = TextStopPolicy(TokenizerAdapter(engine.tokenizer))
    return SearchContext(engine, engine.session("p"), "p", tuple(question.encode()), question, policy, fields)


def score_texts(evaluator, texts, question="Why?", **fields):
    """Return the scores of texts that wait at the same time, and the scorer."""

    async def run():
        scorer = evaluator.search(text_context(question, **fields))
        scores = await asyncio.gather(*(scorer.score(tuple(text.encode())) for text in texts))
        await scorer.close()
        return scores, scorer

    return asyncio.run(run())
