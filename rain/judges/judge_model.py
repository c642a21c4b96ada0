"""What judges ask of a language model, on any engine: complete a text, answer a chat, choose between label words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from rain.core.engine import Engine, SamplingParams, Session
from rain.core.stop import Stop
from rain.core.types import Tokens
from rain.evaluators.labels import LabelScores, SelfEvalPrompt
from rain.evaluators.templates import Template
from rain.judges.base import NoReply
from rain.text import Message, TokenizerAdapter


class JudgeModel:
    """A language model whose replies are greedy; names of special tokens in what it is asked stay plain text.

    Args:
        engine, tokenizer: from ``open_engine``.
    """

    def __init__(self, engine: Engine, tokenizer: Any) -> None:
        self.engine, self.adapter = engine, TokenizerAdapter(tokenizer, engine.eos)
        self._label_prompts: dict[Template, SelfEvalPrompt] = {}
        self._numbers = count()

    async def complete(self, text: str, max_tokens: int) -> str:
        """Return the continuation of a text."""
        return await self._generate(self.adapter.bos + self.adapter.encode(text), max_tokens)

    async def chat(self, messages: Sequence[Message], max_tokens: int) -> str:
        """Return the reply to a conversation; RainError if the model's chat template does not take it."""
        turns = [{**message, "content": message["content"].strip()} for message in messages]
        return await self._generate(self.adapter.encode_chat(turns), max_tokens)

    async def label_logprobs(self, template: Template, question: str, response: str) -> LabelScores:
        """Return how likely the template's labels are after a text; RainError if the model cannot tell them apart."""
        prompt = self._label_prompts.get(template)
        if prompt is None:
            prompt = self._label_prompts[template] = SelfEvalPrompt(template, self.adapter)
            if prompt.shared_prefix:
                await self.engine.cache_prefix(prompt.shared_prefix)
        context, tokens = prompt.context(question), prompt.encode_response(question, response)
        longest = max(len(label.tail) for label in prompt.label_prompts)
        async with self.session(len(context) + len(tokens) + longest) as session:
            return await prompt.read(session, context, tokens)

    async def _generate(self, ids: Tokens, max_tokens: int) -> str:
        params = SamplingParams(max_tokens, greedy_first=True, stop=Stop(self.adapter.eos))
        async with self.session(len(ids) + max_tokens) as session:
            [reply] = await session.generate(ids, params)
        return self.adapter.decode(reply.tokens)

    @asynccontextmanager
    async def session(self, length: int) -> AsyncIterator[Session]:
        """Open a session for one request of this length (tokens)."""
        if length > self.engine.context:
            raise NoReply(f"{length} tokens do not fit into the context of {self.engine.context}", refused=True)
        session = self.engine.session(f"judge-{next(self._numbers)}")
        try:
            yield session
        finally:
            await session.close()
