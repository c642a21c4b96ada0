"""What aligns text: one model, one evaluator, one encoder; the command, the library and the benchmark call it alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeGuard

from rain.core.config import Budget, RainConfig
from rain.core.engine import Engine, SamplingParams, Session
from rain.core.errors import RainError, WorkerFault
from rain.core.problem import SearchInputs
from rain.core.search import Search
from rain.core.types import Tokens
from rain.data.datasets import Prompt
from rain.engines.registry import PlacementConfig, open_engine
from rain.evaluators.base import Evaluator, SearchContext, SearchScorer
from rain.evaluators.registry import open_evaluator
from rain.settings import AlignerConfig
from rain.text import (
    Message,
    PromptFormatter,
    SentenceEncoder,
    SpanEncoder,
    TextStopPolicy,
    TokenizerAdapter,
    check_messages,
)

LONGEST_TOKEN = 16
"""Characters that a token stands for at most, on average: a longer prompt is refused before it is read."""

SPARE_TOKENS = 16
"""Left free in the context, since text that is encoded again may need a few tokens more."""


class CommittedText(NamedTuple):
    """One committed token set, as it is in the records.

    Attributes:
        text: its own text.
        visits: whole visits of its node.
        value: its value in [-1, 1], to 6 digits.
        simulations: run for this commit.
    """

    text: str
    visits: int
    value: float
    simulations: int


OnCommit = Callable[[CommittedText], None]


@dataclass(frozen=True)
class Answer:
    """An answer; ``str(answer)`` is its text.

    Attributes:
        text: the answer, stripped of surrounding whitespace.
        finish: why it ended: "eos", "stop", "length", "budget" or "empty".
        commits: the committed token sets in order; empty for a plain answer.
        cost: counters by name: those of ``Usage``, ``seconds``, and for RAIN ``simulations``, ``evaluations`` and
            ``evaluation`` (the part of the usage that evaluation caused).
        tokens: ids of the response, special ones and what belongs to a stop string included.
    """

    text: str
    finish: str
    commits: tuple[CommittedText, ...] = ()
    cost: dict[str, Any] = field(default_factory=dict)
    tokens: Tokens = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt that fits the model.

    Attributes:
        id: together with the run's seed, all randomness comes from it.
        question: what the evaluator is told that was asked.
        tokens: the prompt's ids.
        search: the constants, with limits that fit the context.
        seed: of the run.
    """

    id: str
    question: str
    tokens: Tokens
    search: RainConfig
    seed: int


class Aligner:
    """Answers prompts with RAIN, and plainly.

    Args:
        config: what is aligned.
        engine: of the language model.
        tokenizer: of the language model.
        encoder: of texts, for the similarity of siblings.
        evaluator: scores texts; None: those of the configuration.
        eager: see ``Search``.

    Raises:
        RainError: template and model, or prompt format and model, do not fit.
    """

    def __init__(
        self,
        config: AlignerConfig,
        engine: Engine,
        tokenizer: Any,
        encoder: SentenceEncoder,
        *,
        evaluator: Evaluator | None = None,
        eager: bool = False,
    ) -> None:
        task = config.task
        self.config, self.engine, self.encoder, self.eager = config, engine, encoder, eager
        self.adapter = TokenizerAdapter(tokenizer, engine.eos)
        self.formatter = PromptFormatter(self.adapter, config.prompt_file)
        self.evaluator = evaluator or open_evaluator(
            config.evaluators, config.template, config.evaluation, self.adapter, task.cut_after_full_stop
        )
        self.policy = TextStopPolicy(
            self.adapter, task.stop_strings, task.to_end, task.rollout_limit, self.adapter.pausing_tokens()
        )

    async def warm_up(self) -> None:
        """Compute what all prompts share."""
        prefix = self.formatter.shared_prefix()
        if prefix:
            await self.engine.cache_prefix(prefix)
        await self.evaluator.warm_up(self.engine)

    def prepare(
        self,
        id: str,
        prompt: str | Sequence[Message] | Tokens,
        *,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        question: str | None = None,
    ) -> PreparedPrompt:
        """Return a prompt's ids, and limits that leave room for answer and evaluation in the model's context.

        Args:
            id: names the prompt.
            prompt: a question, a conversation, or the ids of a prompt.
            seed: replaces that of the configuration.
            max_new_tokens: replaces that of the configuration.
            question: what the evaluator is told that was asked; None: the prompt's text.

        Raises:
            RainError: the prompt is empty or too long.
        """
        if is_tokens(prompt):
            tokens = prompt
        else:
            text: str | Sequence[Message] = prompt  # type: ignore[assignment]
            length = len(text) if isinstance(text, str) else sum(len(part["content"]) for part in check_messages(text))
            if length > LONGEST_TOKEN * self.engine.context:
                raise RainError(
                    f"the prompt of {length} characters leaves no room for an answer in the model's context of "
                    f"{self.engine.context} tokens"
                )
            tokens = self.formatter.encode(text)
        if not tokens or prompt == "":
            raise RainError("the prompt is empty")
        question = question if question is not None else self._question(prompt)
        search = self.config.search
        if max_new_tokens is not None:
            search = replace(search, max_new_tokens=max_new_tokens)
        around = max(0, self.evaluator.overhead(question) - len(tokens))
        search = replace(search, maxlen=max(1, min(search.maxlen, self.engine.context - around - SPARE_TOKENS)))
        if search.limit(len(tokens)) <= len(tokens):
            raise RainError(
                f"the prompt of {len(tokens)} tokens leaves no room for an answer within the limit of "
                f"{search.maxlen} tokens"
            )
        return PreparedPrompt(id, question, tokens, search, self.config.prompting.seed if seed is None else seed)

    def _question(self, prompt: str | Sequence[Message] | Tokens) -> str:
        """Return what the evaluator is told: the question, or the conversation in the words of the template."""
        if isinstance(prompt, str):
            return prompt
        if is_tokens(prompt):
            return self.adapter.decode(prompt)
        template, text = self.config.template, ""
        opening = template.head.rpartition("\n")[2]  # such as "Human: "
        for message in check_messages(prompt):  # type: ignore[arg-type]
            if message["role"] == "user":
                text += (f"\n\n{opening}" if text else "") + message["content"]
            elif message["role"] == "assistant":
                text += f"{template.middle} {message['content']}"
        return text

    def begin(self, prompt: PreparedPrompt, budget: Budget | None = None) -> Generation:
        """Return a search that is about to begin."""
        return Generation(self, prompt, budget or Budget())

    async def generate(
        self, prompt: PreparedPrompt, *, budget: Budget | None = None, on_commit: OnCommit = lambda commit: None
    ) -> Answer:
        """Answer with RAIN.

        Args:
            prompt: from ``prepare``.
            budget: at its end, the text committed so far is the answer.
            on_commit: called for each committed token set.
        """
        generation = self.begin(prompt, budget)
        async with aclosing(generation.commits()) as commits:
            async for commit in commits:
                on_commit(commit)
        return generation.answer()

    async def stream(self, prompt: PreparedPrompt, *, budget: Budget | None = None) -> AsyncIterator[str]:
        """Yield the answer's text as it becomes final; the pieces together are ``Answer.text``."""
        generation = self.begin(prompt, budget)
        async with aclosing(generation.pieces()) as pieces:
            async for piece, _ in pieces:
                if piece:
                    yield piece

    async def generate_baseline(self, prompt: PreparedPrompt) -> Answer:
        """Answer by greedy decoding with a KV cache, under the same limits and stop rules."""
        started = time.perf_counter()
        session = self.engine.session(f"{prompt.id}/plain")
        length = prompt.search.limit(len(prompt.tokens)) - len(prompt.tokens)
        try:
            params = SamplingParams(max_tokens=length, greedy_first=True, stop=self.policy.stop)
            [continuation] = await session.generate(prompt.tokens, params)
        finally:
            await session.close()
        cost = {**session.usage.as_dict(), "seconds": round(time.perf_counter() - started, 3)}
        tokens = continuation.tokens
        finish = self.policy.finish(tokens) or "length"
        return Answer(self.policy.text(tokens).strip(), finish, (), cost, tokens)

    async def record(self, prompt: Prompt, on_commit: OnCommit = lambda commit: None) -> dict[str, Any]:
        """Return the result record of a prompt; a prompt that cannot be answered gives a record with ``error``.

        Raises:
            WorkerFault: what answers is gone.
            Exception: anything unexpected; the prompt may be the reason, or a device that breaks.
        """
        try:
            answers = await self._answers(prompt, on_commit)
        except WorkerFault:
            raise
        except RainError as error:
            return error_record(self.config, prompt, str(error))
        return {"id": prompt.id, "question": prompt.question, **answers, **prompt.extra, **_origin(self.config)}

    async def _answers(self, prompt: Prompt, on_commit: OnCommit) -> dict[str, Any]:
        """Answer with RAIN and plainly, at the same time."""
        prepared = self.prepare(prompt.id, prompt.question)
        rain, plain = await gather_or_cancel(
            self.generate(prepared, on_commit=on_commit), self.generate_baseline(prepared)
        )
        return {
            "raina": rain.text,
            "pa": plain.text,
            "finish": rain.finish,
            "moves": [commit._asdict() for commit in rain.commits],
            "cost": {"rain": rain.cost, "plain": plain.cost},
            "dtype": self.engine.dtype,
        }

    async def close(self) -> None:
        """Release the engine."""
        await self.engine.close()


class Generation:
    """One answer in the making: ``commits`` or ``pieces`` run the search, once; ``answer`` may be asked at any time."""

    def __init__(self, aligner: Aligner, prompt: PreparedPrompt, budget: Budget) -> None:
        self.prompt, self.policy = prompt, aligner.policy
        self._budget, self._started = budget, time.perf_counter()
        self._commits: list[CommittedText] = []
        self._session: Session = aligner.engine.session(prompt.id)
        context = SearchContext(
            aligner.engine, self._session, prompt.id, prompt.tokens, prompt.question, aligner.policy
        )
        self._scorer: SearchScorer = aligner.evaluator.search(context)
        inputs = SearchInputs(
            prompt=prompt.tokens,
            key=f"{prompt.seed}/{prompt.id}",
            scorer=self._scorer,
            encoder=SpanEncoder(aligner.encoder, aligner.policy.text),
            policy=aligner.policy,
        )
        self._search = Search(
            inputs, self._session, prompt.search, eager=aligner.eager, out_of_budget=self._out_of_budget
        )

    @property
    def tokens(self) -> Tokens:
        """The committed ids, up to the response's limit."""
        start = len(self.prompt.tokens)
        return self._search.prefix[start : self.prompt.search.limit(start)]

    def _out_of_budget(self) -> bool:
        computed = self._session.usage.tokens_computed + self._scorer.usage.tokens_computed
        return self._budget.spent(self._search.simulations, computed, time.perf_counter() - self._started)

    async def commits(self) -> AsyncGenerator[CommittedText, None]:
        """Run the search; yield each committed token set. Caches are freed when it ends, fails or is closed."""
        try:
            async for commit in self._search.commits():
                text = self.policy.text(commit.tokens)
                value = round(commit.child.value, 6)
                self._commits.append(CommittedText(text, commit.child.visits, value, commit.simulations))
                yield self._commits[-1]
        finally:
            await self._scorer.close()
            await self._session.close()

    async def pieces(self) -> AsyncGenerator[tuple[str, CommittedText | None], None]:
        """Run the search; yield text that has become final, with its commit (None: what was held back until the end).

        A piece may be empty, where all of a commit's text is held back.
        """
        shown = 0
        async with aclosing(self.commits()) as commits:
            async for commit in commits:
                text = self.policy.final_text(self.tokens)
                yield text[shown:], commit
                shown = max(shown, len(text))
        rest = self.answer().text[shown:]
        if rest:
            yield rest, None

    def answer(self) -> Answer:
        """Return the answer, or what of it is committed."""
        usage = self._session.usage + self._scorer.usage
        cost = {
            **usage.as_dict(),
            "simulations": self._search.simulations,
            "evaluations": self._scorer.evaluations,
            "evaluation": self._scorer.usage.as_dict(),
            "seconds": round(time.perf_counter() - self._started, 3),
        }
        finish, tokens = self._search.finish or "budget", self.policy.up_to_end(self.tokens)
        # What a longer search might still take back, such as half of a stop string, is not in a shorter one's answer.
        text = self.policy.final_text(tokens) if finish == "budget" else self.policy.text(tokens).strip()
        return Answer(text, finish, tuple(self._commits), cost, tokens)


async def gather_or_cancel(*coroutines: Any) -> list[Any]:
    """Await all; if one fails or this call is cancelled, cancel the others before passing it on."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def is_tokens(prompt: object) -> TypeGuard[Tokens]:
    """Tell the ids of a prompt from a text or a conversation."""
    return isinstance(prompt, tuple) and all(isinstance(token, int) for token in prompt)


def _origin(config: AlignerConfig) -> dict[str, Any]:
    """Return the fields that every record ends with: what made it."""
    goal = {"target": config.evaluation.target} if config.evaluation.target else {}
    return {**goal, "model": config.model.name, "seed": config.prompting.seed, "config": config.hash}


def error_record(config: AlignerConfig, prompt: Prompt, reason: str) -> dict[str, Any]:
    """Return the record of a prompt that has no answer."""
    return {"id": prompt.id, "question": prompt.question, "error": reason, **prompt.extra, **_origin(config)}


def open_encoder(config: AlignerConfig) -> SentenceEncoder:
    """Start the sentence encoder."""
    if config.model.engine == "toy":
        from rain.engines.toy import ToyEncoder

        return ToyEncoder()
    from rain.encoder import MeanPoolingEncoder
    from rain.models.loading import load_encoder

    return MeanPoolingEncoder(*load_encoder(config.prompting.encoder))


def open_aligner(config: AlignerConfig, placement: PlacementConfig) -> Aligner:
    """Load the model and the encoder of a configuration."""
    engine, tokenizer = open_engine(config.model, placement)
    return Aligner(config, engine, tokenizer, open_encoder(config))
