"""``Rain``: the object that aligns text, for scripts, notebooks and services.

All work happens in one event loop in a thread of its own, so that blocking calls work where a loop is running already
(notebooks), from several threads, and at the same time as the async methods.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tqdm import tqdm

from rain.aligner import Aligner, open_config_evaluator, open_encoder
from rain.calls import CallOptions, EventOptions, PromptLike, begin, check_traces, is_one_prompt, prepare_prompt
from rain.core.concurrency import gather_or_cancel
from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.data.labelled import load_labelled
from rain.engines.registry import check_loaded, open_engine, open_loaded
from rain.evaluators.assessment import Preflight
from rain.evaluators.base import Evaluator
from rain.evaluators.function import FunctionEvaluator, TextFunction
from rain.evaluators.preflight import measure
from rain.evaluators.registry import by_name
from rain.events import Event, areceive, receive
from rain.generation import Answer, Piece, PreparedPrompt
from rain.goal_settings import chat_config, make_goal_settings
from rain.loop_thread import LoopThread, T
from rain.text import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack


class Rain:
    """A model that aligns its own text while it generates.

    Args:
        model: an embedded model, a name on the hub, a folder, a .gguf file, or a loaded transformers model.
        tokenizer: of a loaded model.
        goal: what to align to, see ``rain goals``; an embedded model's preset for it is applied and announced.
        task: instead of a goal, one of the benchmarks: hh, adv, truth or imdb.
        template: a file with what the model is asked about its text, for a goal of your own (docs/goals.md).
        scorer: instead of asking the model, a function ``(prompt, text) -> score in [-1, 1]``; may be async. If it
            is slow or costs money, set ``prefetch=0``: otherwise some texts are scored in vain.
        search: the constants of the search, in place of the task's and the preset's.
        concurrency: maximum searches of a list of prompts at once.
        progress: whether lists of prompts show a bar; None: on a terminal.
        settings: any other flag of the allocation command by its name, such as ``votes="soft"``, ``dtype="float32"`` or
            ``method="best-of-n", n=16`` (docs/methods.md).

    Raises:
        RainError: a name is unknown, a value is out of range, or the model cannot be loaded.

    A loaded model keeps its own attention and may be called and shared, but not while an answer is being made; its
    linear layers are ordered for the CPU until ``close``. ``settings`` include ``budget="tokens=N"``; a ``Budget`` goes
    to a call.

    A prompt is a string, a conversation (a list of ``{"role": ..., "content": ...}``) or a tuple of token ids.
    Conversations are rendered with the model's chat template; so are strings, except for models without one, for tasks
    and for goals that continue a text (positive, negative), which put them into the task's prompt file. The same prompt
    and seed give the same answer, whatever else is in progress (up to rounding: docs/how-it-works.md).
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel = "smollm2",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        goal: str | None = None,
        task: str | None = None,
        template: str | Path | None = None,
        scorer: TextFunction | None = None,
        search: RainConfig | None = None,
        concurrency: int = 8,
        progress: bool | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(concurrency, int) or concurrency < 1:
            raise RainError(f"concurrency is {concurrency!r}; it must be at least 1")
        if scorer is not None and not callable(scorer):
            raise RainError(f"scorer is {scorer!r}; it must be a function of prompt and text")
        loaded: PreTrainedModel | None = None
        if isinstance(model, (str, Path)):
            name = str(model)
            if tokenizer is not None:
                raise RainError(f"a tokenizer is for a loaded model, and {name} brings its own; leave it out")
        else:
            check_loaded(model, tokenizer, settings)
            loaded, name = model, model.config.name_or_path or type(model).__name__
        if template is not None:
            settings["templates"] = str(template)
        self.settings = make_goal_settings(goal, task, {"modelname": name, **settings}, search, scorer is not None)
        self.concurrency, self.progress, self._closed = concurrency, progress, False
        self._own_template = template is not None
        if notice := self.settings.preset_notice():
            print(notice, file=sys.stderr)
        config, placement = self.settings.aligner, self.settings.placement
        if loaded is None:
            engine, tokenizer = open_engine(config.model, placement)
        else:
            engine = open_loaded(loaded, tokenizer, placement)
        self._thread = LoopThread()
        try:
            if not self.settings.format_known:
                config = chat_config(config, tokenizer)
            evaluator = FunctionEvaluator(scorer) if scorer is not None else None
            encoder, prefetch = open_encoder(config), placement.prefetch
            self.aligner = Aligner(config, engine, tokenizer, encoder, evaluator=evaluator, prefetch=prefetch)
            self._thread.run(self.aligner.warm_up())
        except BaseException:
            self._thread.close(engine.close())
            raise

    @overload
    def generate(self, prompts: PromptLike, **options: Unpack[CallOptions]) -> Answer: ...

    @overload
    def generate(self, prompts: list[str] | list[list[Message]], **options: Unpack[CallOptions]) -> list[Answer]: ...

    @overload
    def generate(self, prompts: Any, **options: Unpack[CallOptions]) -> Any: ...

    def generate(self, prompts: Any, **options: Unpack[CallOptions]) -> Any:
        """Answer one prompt, or a list of them at the same time.

        Args:
            prompts: a prompt (str, conversation, token ids) gives an ``Answer``; a list of prompts gives a list.
            options: see ``CallOptions``.

        Raises:
            RainError: a prompt is empty or too long, or there is no such option.
        """
        return self._thread.run(self._generate(prompts, options))

    async def agenerate(self, prompts: Any, **options: Unpack[CallOptions]) -> Any:
        """Answer like ``generate``, with the same errors; cancelling it frees everything that it held."""
        return await self._thread.arun(self._generate(prompts, options))

    def baseline(self, prompts: Any, **options: Unpack[CallOptions]) -> Any:
        """Answer by greedy decoding: what the model says without RAIN; arguments and errors as for ``generate``.

        A budget is kept too; that of the settings is for ``generate`` alone.
        """
        return self._thread.run(self._generate(prompts, options, baseline=True))

    def stream(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> Iterator[str]:
        """Yield the answer's text as it becomes final; leaving the loop ends the search. Errors as for ``generate``."""
        with closing(receive(self._thread, partial(begin, self.aligner, prompt, options))) as events:
            for event in events:
                if isinstance(event, Piece) and event.text:
                    yield event.text

    async def astream(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> AsyncIterator[str]:
        """Yield like ``stream``; closing the iterator ends the search."""
        async with aclosing(self.aevents(prompt, **options)) as events:
            async for event in events:
                if isinstance(event, Piece) and event.text:
                    yield event.text

    def aevents(
        self, prompt: PromptLike | PreparedPrompt, *, plain: bool = False, **options: Unpack[EventOptions]
    ) -> AsyncGenerator[Event, None]:
        """Yield pieces of text with their commits as they become final, and at last the ``Answer``.

        Closing the iterator ends the search. The seconds of a budget end it even in the middle of a simulation.

        Args:
            prompt: a prompt, or what ``aprepare`` made of it; then budget, evaluator and method are the only options.
            plain: decode greedily, without RAIN.
            options: see ``EventOptions``.
        """
        return areceive(self._thread, partial(begin, self.aligner, prompt, options, plain))

    def preflight(self, labelled: str | Path | None = None) -> Preflight:
        """Measure how well the evaluator judges labelled texts; ``print(rain.preflight().verdict)``.

        Args:
            labelled: a file with question, response and label; None: the goal's own, if the template is.

        Raises:
            RainError: the file is faulty, or has too few texts of a label; the message names it.
        """
        aligner, config = self.aligner, self.aligner.config
        if labelled is None and self._own_template:
            raise RainError("a template of your own has no labelled texts; name their file: preflight(FILE)")
        texts = load_labelled(Path(labelled) if labelled else config.task.path("labelled.jsonl"))
        evaluator = aligner.evaluator
        if config.evaluation.invert and not isinstance(evaluator, FunctionEvaluator):
            evaluator = open_config_evaluator(config, aligner.adapter, upright=True)
        return self._thread.run(measure(evaluator, aligner.engine, aligner.formatter, aligner.policy, texts))

    async def aprepare(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> PreparedPrompt:
        """Return a prompt as ``aevents`` takes it; it is encoded in this object's thread."""

        async def prepare() -> PreparedPrompt:
            return self.prepare(prompt, **options)

        return await self._thread.arun(prepare())

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """What scores texts, by its name in ``--evaluator``; of several each one, and all of them with a + between."""
        return by_name(self.settings.aligner.evaluators, self.aligner.evaluator)

    def prepare(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> PreparedPrompt:
        """Return a prompt as the aligner takes it, for use with ``run`` and ``aligner``."""
        return prepare_prompt(self.aligner, prompt, options)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of ``aligner`` in this object's event loop and wait for it."""
        return self._thread.run(coroutine)

    def close(self) -> None:
        """End everything that is in progress and free the model; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._thread.close(self.aligner.close())

    def __enter__(self) -> Rain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _generate(self, prompts: Any, options: Mapping[str, Any], baseline: bool = False) -> Any:
        if is_one_prompt(prompts):
            return await self._answer(prompts, options, baseline)
        prompts = list(prompts)
        check_traces(prompts, options)
        gate = asyncio.Semaphore(self.concurrency)
        shown = sys.stderr.isatty() if self.progress is None else self.progress
        with tqdm(total=len(prompts), unit="prompt", disable=not shown) as bar:

            async def answer(prompt: PromptLike) -> Answer:
                async with gate:
                    answered = await self._answer(prompt, options, baseline)
                bar.update()
                return answered

            return await gather_or_cancel(*map(answer, prompts))

    async def _answer(self, prompt: PromptLike, options: Mapping[str, Any], baseline: bool) -> Answer:
        prepared, budget = prepare_prompt(self.aligner, prompt, options, baseline), options.get("budget")
        if baseline:
            return await self.aligner.generate_baseline(prepared, budget=budget)
        return await self.aligner.generate(prepared, budget=budget)


def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Any, **settings: Any) -> Any:
    """Answer with a loaded transformers model, which is left as it was.

    Args:
        model: a causal language model.
        tokenizer: its own.
        prompts: see ``Rain.generate``.
        settings: see ``Rain``.
    """
    with Rain(model, tokenizer, **settings) as rain:
        return rain.generate(prompts)
