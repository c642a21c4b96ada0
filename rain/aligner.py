"""What aligns text: one model, one evaluator and one encoder, for the command, the library and the benchmark alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rain.configs import AlignerConfig
from rain.core.concurrency import gather_or_cancel
from rain.core.config import Budget, RainConfig
from rain.core.engine import Engine
from rain.core.errors import PromptTooLong, RainError, UnclearFault, WorkerFault
from rain.core.types import Tokens
from rain.data.datasets import Prompt
from rain.embedding import SentenceEncoder
from rain.engines.registry import PlacementConfig, open_engine
from rain.evaluators.base import SPARE_TOKENS, Evaluator
from rain.evaluators.registry import open_evaluator
from rain.generation import Answer, OnCommit, PreparedPrompt
from rain.judges.oracle import OracleEvaluator
from rain.methods.base import Generation, Parts
from rain.methods.config import MethodConfig
from rain.methods.whole_answers import begin
from rain.plain import PlainGeneration
from rain.prompts import PromptFormatter, check_length, check_messages, is_tokens
from rain.records import answer_record, error_record
from rain.results.jsonl import PROMPTS_OWN
from rain.text import Message, TokenizerAdapter
from rain.trace.record import Append


def open_config_evaluator(config: AlignerConfig, adapter: TokenizerAdapter, *, upright: bool = False) -> Evaluator:
    """Return what a configuration scores texts with.

    Args:
        config: says what scores texts, and how.
        adapter: of the model that writes.
        upright: score for the task's first target, which labels of texts are about, whatever the configuration says.
    """
    cut, settings = config.task.cut_after_full_stop, config.evaluation
    settings = replace(settings, invert=False) if upright else settings
    open_oracle = partial(OracleEvaluator, task=config.task.name)
    return open_evaluator(config.evaluators, config.template, settings, adapter, cut, open_oracle)


class Aligner:
    """Answers prompts with RAIN, and greedily.

    Args:
        config: what is aligned.
        engine: of the language model.
        tokenizer: of the language model.
        encoder: of texts, for the similarity of siblings.
        evaluator: scores texts; None: that of the configuration.
        eager: see ``Search``.
        prefetch: see ``PlacementConfig``.

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
        prefetch: int = 0,
    ) -> None:
        task = config.task
        self.config, self.engine = config, engine
        self.adapter = TokenizerAdapter(tokenizer, engine.eos)
        self.formatter = PromptFormatter(self.adapter, config.prompt_file)
        self.evaluator = evaluator or open_config_evaluator(config, self.adapter)
        self.policy = task.policy(self.adapter)
        prefetch = prefetch if engine.batches else 0
        self.parts = Parts(
            engine, self.evaluator, encoder, self.policy, self.formatter, task.aim, config.method, eager, prefetch
        )

    async def warm_up(self) -> None:
        """Compute what all prompts share."""
        await self.evaluator.warm_up(self.engine)  # first, so that read-outs cover the prefix too
        prefix = self.formatter.shared_prefix()
        if prefix:
            await self.engine.cache_prefix(prefix)

    def prepare(
        self,
        id: str,
        prompt: str | Sequence[Message] | Tokens,
        *,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        question: str | None = None,
        stop: tuple[str, ...] = (),
        raw: bool = False,
        trace: Append | None = None,
    ) -> PreparedPrompt:
        """Return a prompt's ids, and limits that leave room for answer and evaluation in the model's context.

        Args:
            id: names the prompt.
            prompt: a question, a conversation, or the ids of a prompt.
            seed: replaces that of the configuration.
            max_new_tokens: replaces that of the configuration.
            question: the question as the evaluator reads it; None: the prompt's text.
            stop: strings before which the answer ends, besides those of the task.
            raw: continue the text itself, without prompt file and chat template.
            trace: takes what is recorded of the search; None: nothing is.

        Raises:
            RainError: the prompt is empty or too long.
        """
        tokens = self._encode(prompt, raw)
        question = question if question is not None else self._question(prompt)
        search = self.config.search
        if max_new_tokens is not None:
            search = replace(search, max_new_tokens=max_new_tokens)
        search = self._fit(search, tokens, question)
        seed = self.config.prompting.seed if seed is None else seed
        return PreparedPrompt(id, question, prompt, tokens, search, seed, stop, trace)

    def _encode(self, prompt: str | Sequence[Message] | Tokens, raw: bool) -> Tokens:
        """Return a prompt's ids."""
        if is_tokens(prompt):
            if min(prompt, default=0) < 0:
                raise RainError(f"{min(prompt)} is not a token id")
            tokens = prompt
        else:
            check_length(prompt, min(self.engine.context, self.config.search.maxlen))
            tokens = self.formatter.encode(prompt, raw=raw)
        if not tokens or prompt == "":
            raise RainError("the prompt is empty")
        return tokens

    def _fit(self, search: RainConfig, tokens: Tokens, question: str) -> RainConfig:
        """Return the constants with a limit that leaves room for answer and evaluation in the model's context."""
        around = max(0, self.evaluator.overhead(question) - len(tokens))
        spare = max(SPARE_TOKENS, *search.token_set_lengths)  # a token set is drawn whole, beyond the limit too
        search = replace(search, maxlen=max(1, min(search.maxlen, self.engine.context - around - spare)))
        if search.limit(len(tokens)) <= len(tokens):
            raise PromptTooLong(
                f"the prompt of {len(tokens)} tokens leaves no room for an answer within the limit of "
                f"{search.maxlen} tokens",
                len(tokens),
                search.maxlen,
            )
        return search

    def _question(self, prompt: str | Sequence[Message] | Tokens) -> str:
        """Return what the evaluator is told: the question, or the conversation in the words of the template."""
        if isinstance(prompt, str):
            return prompt
        if is_tokens(prompt):
            return self.adapter.decode(prompt)
        turns = [message for message in check_messages(prompt) if message["role"] in ("user", "assistant")]
        if turns and prompt[-1]["role"] == "assistant":
            del turns[-1]  # it is the beginning of the answer, not of the question
        return self.config.template.conversation(turns)

    def begin(
        self,
        prompt: PreparedPrompt,
        budget: Budget | None = None,
        evaluator: Evaluator | None = None,
        method: MethodConfig | None = None,
    ) -> Generation:
        """Return an answer that is about to begin.

        Args:
            prompt: from ``prepare``.
            budget: replaces that of the settings.
            evaluator: a part of the aligner's own, in its place.
            method: replaces that of the settings.
        """
        evaluator, method = evaluator or self.evaluator, method or self.config.method
        parts = replace(self.parts, evaluator=evaluator, policy=self.policy.also(prompt.stop), method=method)
        return begin(parts, prompt, self.config.method.limits if budget is None else budget)

    def begin_baseline(self, prompt: PreparedPrompt, piece: int = 0, budget: Budget | None = None) -> PlainGeneration:
        """Return a greedy answer that is about to begin, in pieces of this length (tokens; 0: in one)."""
        return PlainGeneration(self.engine, self.policy.also(prompt.stop), prompt, piece, budget or Budget())

    async def generate(
        self, prompt: PreparedPrompt, *, budget: Budget | None = None, on_commit: OnCommit = lambda commit: None
    ) -> Answer:
        """Answer with RAIN, or the method of the settings.

        Args:
            prompt: from ``prepare``.
            budget: at its end, the best answer so far is the answer; None: that of the settings.
            on_commit: called for each committed token set.
        """
        return await self.begin(prompt, budget).complete(on_commit)

    async def generate_baseline(self, prompt: PreparedPrompt, *, budget: Budget | None = None) -> Answer:
        """Answer by greedy decoding with a KV cache, under the same limits and stop rules; without a value."""
        return await self.begin_baseline(prompt, budget=budget).complete()

    async def record(
        self, prompt: Prompt, on_commit: OnCommit = lambda commit: None, trace: Append | None = None
    ) -> dict[str, Any]:
        """Answer by the method of the settings and greedily, at the same time; return the result record.

        A prompt that cannot be answered gives a record with ``error``.

        Args:
            prompt: of a data set.
            on_commit: called for each committed token set.
            trace: takes what is recorded of the search; None: nothing is.

        Raises:
            WorkerFault: what answers is gone.
            UnclearFault: what answers may be broken.
            Exception: anything unexpected; the prompt may be the reason, or a device that breaks.
        """
        try:
            prepared = replace(self.prepare(prompt.id, prompt.question, trace=trace), fields=prompt.extra)
        except RainError as error:
            return error_record(self.config, prompt, str(error)) | {PROMPTS_OWN: True}
        try:
            rain, plain = await gather_or_cancel(
                self.generate(prepared, on_commit=on_commit), self.generate_baseline(prepared)
            )
        except (UnclearFault, WorkerFault):
            raise
        except RainError as error:
            return error_record(self.config, prompt, str(error))
        return answer_record(self.config, prompt, rain, plain, self.engine.dtype)

    async def close(self) -> None:
        """Release evaluator and engine."""
        await self.evaluator.close()
        await self.engine.close()


def open_encoder(config: AlignerConfig) -> SentenceEncoder:
    """Start the sentence encoder."""
    if config.model.engine == "toy":
        from rain.engines.toy import ToyEncoder

        return ToyEncoder()
    from rain.encoder import MeanPoolingEncoder

    return MeanPoolingEncoder.load(config.prompting.encoder)


def open_aligner(config: AlignerConfig, placement: PlacementConfig) -> Aligner:
    """Load the model and the encoder of a configuration."""
    engine, tokenizer = open_engine(config.model, placement)
    return Aligner(config, engine, tokenizer, open_encoder(config), prefetch=placement.prefetch)
