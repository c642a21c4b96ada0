"""One worker: loads the model, runs many searches at once, makes a record of each prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rain.core.config import RainConfig
from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.core.problem import Problem
from rain.core.search import Commit, Search
from rain.core.types import Tokens
from rain.data.datasets import Prompt
from rain.engines.registry import open_engine
from rain.evaluators.labels import Evaluation, SelfEvaluator
from rain.evaluators.templates import load_template
from rain.pool.worker import Job, WorkerArgs, WorkerLink
from rain.results.jsonl import Record, ResultWriter
from rain.settings import Settings
from rain.text import Codec, Prompter, TextEncoder, TextRules, TextsEncoder

SLACK = 16
OnCommit = Callable[[Commit, str], None]
Write = Callable[[Record], None]


def open_encoder(settings: Settings) -> TextsEncoder:
    """Start the sentence encoder (of texts)."""
    if settings.engine.engine == "toy":
        from rain.engines.toy import ToyEncoder

        return ToyEncoder()
    from rain.encoder import SentenceEncoder
    from rain.models.loading import load_encoder

    return SentenceEncoder(*load_encoder(settings.run.encoder))


class Runner:
    """Answers prompts with RAIN and plainly.

    Args:
        settings: of the run.
        engine, tokenizer: from ``open_engine``.
        encoder: of texts, with ``async encode(texts)``.

    Attributes:
        search: the kind of search (the published way expands at other times; see ``rain.bench``).

    Raises:
        RainError: template and model do not fit.
    """

    def __init__(self, settings: Settings, engine: Engine, tokenizer: Any, encoder: TextsEncoder) -> None:
        task = settings.task
        self.settings, self.engine, self.encoder = settings, engine, encoder
        self.search: type[Search] = Search
        self.dtype = getattr(engine, "dtype", settings.engine.dtype)
        self.codec = Codec(tokenizer, getattr(engine, "eos", ()))
        self.prompter = Prompter(self.codec, task.path(task.prompt), settings.run.chat_template)
        self.evaluation = Evaluation(load_template(settings.template_path()), self.codec)
        self.rules = TextRules(
            self.codec, task.stop_strings, task.to_end, task.rollout_limit, self.codec.pausing_tokens()
        )

    async def warm_up(self) -> None:
        """Compute what all prompts share."""
        for prefix in (self.prompter.shared(), self.evaluation.pinned):
            if prefix:
                await self.engine.pin(prefix)

    async def record(self, prompt: Prompt, on_commit: OnCommit = lambda commit, text: None) -> Record:
        """Return the result record of a prompt; a prompt that fails gives a record with ``error``."""
        settings = self.settings
        start: Record = {"id": prompt.id, "question": prompt.question}
        try:
            answers = await self._answers(prompt, on_commit)
        except RainError as error:
            return error_record(settings, prompt, str(error))
        except Exception as error:  # one prompt's fault must not cost the others their answers
            return error_record(settings, prompt, f"{type(error).__name__}: {error}")
        return {**start, **answers, **prompt.extra, **_origin(settings)}

    async def searched(self, prompt: Prompt, on_commit: OnCommit = lambda commit, text: None) -> Record:
        """Answer with RAIN alone: text, length (tokens), finish, moves and cost."""
        return await self._search(prompt, *self._start(prompt), on_commit)

    async def answered(self, prompt: Prompt) -> Record:
        """Answer plainly alone: text, length (tokens) and cost."""
        return await self._plain(prompt, *self._start(prompt))

    def _start(self, prompt: Prompt) -> tuple[Tokens, RainConfig]:
        """Return the prompt's tokens and the limits that fit it."""
        tokens = self.prompter.encode(prompt.question)
        if not tokens:
            raise RainError("the prompt is empty")
        return tokens, self._fitting(prompt.question, tokens)

    async def _answers(self, prompt: Prompt, on_commit: OnCommit) -> Record:
        """Answer with RAIN and plainly, side by side."""
        rain, plain = await asyncio.gather(self.searched(prompt, on_commit), self.answered(prompt))
        return {
            "raina": rain["text"],
            "pa": plain["text"],
            "finish": rain["finish"],
            "moves": rain["moves"],
            "cost": {"rain": rain["cost"], "plain": plain["cost"]},
            "dtype": self.dtype,
        }

    def _fitting(self, question: str, prompt: Tokens) -> RainConfig:
        """Limit the response so that it fits into the model's context, within the evaluation prompt too."""
        longest = max(len(ask.tail) for ask in self.evaluation.askings)
        around = max(0, len(self.evaluation.context(question)) + longest - len(prompt))
        context = getattr(self.engine, "context", 1 << 30)
        config = replace(self.settings.rain, maxlen=min(self.settings.rain.maxlen, context - around - SLACK))
        if config.limit(len(prompt)) <= len(prompt):
            raise RainError(
                f"the prompt of {len(prompt)} tokens leaves no room for an answer in {config.maxlen} tokens"
            )
        return config

    async def _search(self, prompt: Prompt, tokens: Tokens, config: RainConfig, on_commit: OnCommit) -> Record:
        """Run one search to its end."""
        started = time.perf_counter()
        session = self.engine.session(prompt.id)
        scorer = SelfEvaluator(
            self.evaluation,
            self.settings.evaluation,
            session,
            self.rules,
            prompt.question,
            self.settings.task.cut_after_full_stop,
        )
        encoder = TextEncoder(self.encoder, lambda span: self.codec.decode(self.rules.visible(span)))
        key = f"{self.settings.run.seed}/{prompt.id}"
        search = self.search(Problem(tokens, key, scorer, encoder, self.rules), session, config)
        moves, finish = [], "empty"
        try:
            async for commit in search.commits():
                text = self.codec.decode(self.rules.visible(commit.tokens))
                moves.append(
                    {
                        "text": text,
                        "visits": commit.child.visits,
                        "value": round(commit.child.value, 6),
                        "simulations": commit.simulations,
                    }
                )
                finish = commit.finish or "length"
                on_commit(commit, text)
        finally:
            await session.close()
        cost = {
            **session.usage.as_dict(),
            "simulations": search.simulations,
            "evaluations": scorer.evaluations,
            "seconds": round(time.perf_counter() - started, 3),
        }
        response = search.prefix[len(tokens) : config.limit(len(tokens))]
        answer = {"text": self._text(response), "length": len(response)}
        return {**answer, "finish": finish, "moves": moves, "cost": cost}

    async def _plain(self, prompt: Prompt, tokens: Tokens, config: RainConfig) -> Record:
        """Answer by greedy decoding with a KV cache, under the same limits and stop rules."""
        started = time.perf_counter()
        session = self.engine.session(f"{prompt.id}/plain")
        try:
            [continuation] = await session.generate(
                tokens, max_tokens=config.limit(len(tokens)) - len(tokens), greedy_first=True, stop=self.rules.stop
            )
        finally:
            await session.close()
        cost = {**session.usage.as_dict(), "seconds": round(time.perf_counter() - started, 3)}
        return {"text": self._text(continuation.tokens), "length": len(continuation.tokens), "cost": cost}

    def _text(self, response: Tokens) -> str:
        return self.codec.decode(self.rules.visible(response)).strip()


def _origin(settings: Settings) -> Record:
    """Return the fields that every record ends with: what made it."""
    goal = {"target": settings.evaluation.target} if settings.evaluation.target else {}
    return {**goal, "model": settings.engine.model, "seed": settings.run.seed, "config": settings.config_hash}


def error_record(settings: Settings, prompt: Prompt, reason: str) -> Record:
    """Return the record of a prompt that has no answer."""
    return {"id": prompt.id, "question": prompt.question, "error": reason, **prompt.extra, **_origin(settings)}


def open_runner(settings: Settings) -> Runner:
    """Load the model and the encoder of a run; for use as a library, see the README."""
    engine, tokenizer = open_engine(settings.engine)
    return Runner(settings, engine, tokenizer, open_encoder(settings))


async def serve(runner: Runner, link: WorkerLink, write: Write) -> None:
    """Take jobs until there are no more, so many at a time as the settings say."""
    loop, width = asyncio.get_running_loop(), runner.settings.run.concurrency
    threads = ThreadPoolExecutor(width + 1, thread_name_prefix="jobs")  # asyncio.run would wait for the loop's own
    await runner.warm_up()
    link.ready()

    async def work() -> None:
        while (job := await loop.run_in_executor(threads, link.receive)) is not None:
            await answer(job)

    async def answer(job: Job) -> None:
        link.started(job.id)

        def on_commit(commit: Commit, text: str) -> None:
            link.progress(job.id, {"simulations": commit.simulations})
            link.commit(job.id, text)

        record = await runner.record(job.payload, on_commit)
        write(record)
        if "error" in record:
            link.failed(job.id, record["error"])
        else:
            link.done(job.id)

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work()) for _ in range(width)]
    stopping = loop.run_in_executor(threads, link.stopping.wait)
    await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (stopping, *tasks):
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def worker_main(args: WorkerArgs, link: WorkerLink) -> None:
    """Run a worker process that writes its own result file (called by the pool)."""
    settings: Settings = args.settings
    with ResultWriter(Path(settings.run.outdir) / f"res_{args.index}.jsonl") as writer:
        work(settings, link, writer.write)


def work(settings: Settings, link: WorkerLink, write: Write) -> None:
    """Load the model and serve; ``write`` puts a record on the disk, or sends it to who does."""
    asyncio.run(serve(open_runner(settings), link, write))
