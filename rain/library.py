"""``Rain``: the object that aligns text, for scripts, notebooks and services.

All work happens in one event loop in a thread of its own, so that blocking calls work where a loop is running already
(notebooks), from several threads, and at the same time as the async methods.
"""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tqdm import tqdm

from rain.aligner import Aligner, open_config_evaluator, open_encoder
from rain.calls import PromptLike, check_options, is_one_prompt, prompt_id
from rain.configs import Settings, SourcesConfig
from rain.core.concurrency import gather_or_cancel
from rain.core.config import RainConfig
from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.data.labelled import load_labelled
from rain.engines.registry import open_engine, open_loaded
from rain.evaluators.base import Evaluator, WorstOf
from rain.evaluators.function import FunctionEvaluator, TextFunction
from rain.evaluators.labels import EvaluationConfig
from rain.evaluators.preflight import Preflight, measure
from rain.evaluators.registry import describe
from rain.events import Event, send_events
from rain.generation import Answer, Piece, PreparedPrompt
from rain.goal_settings import DEFAULT_GOAL, chat_config, make_goal_settings
from rain.loop_thread import LoopThread, T
from rain.methods.base import Generation
from rain.plain import PIECE, PlainGeneration
from rain.settings import check_read_outs
from rain.tasks.goals import load_goal
from rain.text import Message
from rain.trace.record import SUFFIX, Append, to_file, trace_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from rain.calls import CallOptions, EventOptions

LOADED_ALREADY = ("engine", "modelname", "dtype", "quantization", "device_map", "base_url")
"""Settings that say how a model is loaded."""


class Rain:
    """A model that aligns its own text while it generates.

    Args:
        model: an embedded model, a name on the hub, a folder, a .gguf file, or a loaded transformers model.
        tokenizer: of a loaded model.
        goal: what to align to, see ``rain goals``; an embedded model's preset for it is applied and announced.
        task: instead of a goal, the setting of one of the benchmarks: hh, adv, truth or imdb.
        template: a file with what the model is asked about its text, for a goal of your own (docs/goals.md).
        scorer: instead of asking the model, a function ``(prompt, text) -> score in [-1, 1]``; may be async.
        search: the constants of the search, in place of the task's and the preset's.
        concurrency: maximum searches at once.
        progress: whether lists of prompts show a bar; None: on a terminal.
        settings: any other flag of the allocation command by its name, such as ``votes="soft"``, ``dtype="float32"`` or
            ``method="best-of-n", n=16`` (docs/methods.md).

    Raises:
        RainError: a name is unknown, a value is out of range, or the model cannot be loaded.

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
        loaded = None if isinstance(model, (str, Path)) else model
        name = str(model) if loaded is None else loaded.config.name_or_path or type(loaded).__name__
        if template is not None:
            settings["templates"] = str(template)
        made = make_goal_settings(goal, task, {"modelname": name, **settings})
        if search is not None:
            if twice := {field.name for field in fields(RainConfig)} & set(settings):
                raise RainError(f"{min(twice)} is a part of search; give it there, or leave search out")
            made = replace(made, aligner=replace(made.aligner, search=search))
        replaced = [RainConfig] * bool(search) + [SourcesConfig, EvaluationConfig] * bool(scorer)
        made = made.without_preset_of(replaced)
        self.settings, self.concurrency, self.progress = made, concurrency, progress
        if notice := made.preset_notice():
            print(notice, file=sys.stderr)
        self._closed = False
        engine, tokenizer = _open(made, settings, loaded, tokenizer)
        self._thread = LoopThread()
        try:
            chats = not task and "chat_template" not in settings and load_goal(goal or DEFAULT_GOAL).chat
            config = made.aligner
            if chats:
                config = chat_config(config, tokenizer)
                check_read_outs(config)
            evaluator = FunctionEvaluator(scorer) if scorer else None
            prefetch = made.placement.prefetch
            self.aligner = Aligner(
                config, engine, tokenizer, open_encoder(config), evaluator=evaluator, prefetch=prefetch
            )
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
        return await asyncio.wrap_future(self._thread.submit(self._generate(prompts, options)))

    def baseline(self, prompts: Any, **options: Unpack[CallOptions]) -> Any:
        """Answer by greedy decoding: what the model says without RAIN; arguments and errors as for ``generate``.

        A budget is kept too; that of the settings is for ``generate`` alone.
        """
        return self._thread.run(self._generate(prompts, options, baseline=True))

    def stream(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> Iterator[str]:
        """Yield the answer's text as it becomes final; leaving the loop ends the search. Errors as for ``generate``."""
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        with self._thread.running(self._pump(prompt, options, events.put)):
            while (event := events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Piece) and event.text:
                    yield event.text

    async def astream(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> AsyncIterator[str]:
        """Yield like ``stream``; closing the iterator ends the search."""
        async with aclosing(self.aevents(prompt, **options)) as events:
            async for event in events:
                if isinstance(event, Piece) and event.text:
                    yield event.text

    async def aevents(
        self, prompt: PromptLike | PreparedPrompt, *, plain: bool = False, **options: Unpack[EventOptions]
    ) -> AsyncGenerator[Event, None]:
        """Yield pieces of text with their commits as they become final, and at last the ``Answer``.

        Closing the iterator ends the search. The seconds of a budget end it even in the middle of a simulation.

        Args:
            prompt: a prompt, or what ``aprepare`` made of it; then budget, evaluator and method are the only options.
            plain: decode greedily, without RAIN.
            options: see ``EventOptions``.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | BaseException | None]()

        def put(event: Event | BaseException | None) -> None:
            with suppress(RuntimeError):  # the caller's loop has ended, and nobody is listening
                loop.call_soon_threadsafe(events.put_nowait, event)

        future = self._thread.submit(self._pump(prompt, options, put, plain))
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            future.cancel()

    async def _pump(
        self,
        prompt: PromptLike | PreparedPrompt,
        options: Mapping[str, Any],
        put: Callable[[Event | BaseException | None], None],
        plain: bool = False,
    ) -> None:
        """Send an answer into another thread: its pieces, itself, then None; or what ended it."""
        rest = dict(options)
        evaluator, method, budget = rest.pop("evaluator", None), rest.pop("method", None), rest.get("budget")
        try:
            if isinstance(prompt, PreparedPrompt):
                prepared = prompt
                if late := set(rest) - {"budget"}:
                    raise RainError(f"the prompt is prepared already; {min(late)} is an option of aprepare")
            else:
                prepared = self._prepare(prompt, rest)
            if plain:
                begun: Generation | PlainGeneration = self.aligner.begin_baseline(prepared, PIECE, budget)
            else:
                begun = self.aligner.begin(prepared, budget, evaluator, method)
            await send_events(begun, budget.seconds if budget else 0, put)
            put(None)
        except Exception as error:
            put(error)
        except asyncio.CancelledError:
            put(RainError("this Rain object was closed while it was answering"))
            raise

    def preflight(self, labelled: str | Path | None = None) -> Preflight:
        """Measure how well the evaluator judges labelled texts; ``print(rain.preflight().verdict)``.

        Args:
            labelled: a file with question, response and label; None: the goal's own.

        Raises:
            RainError: the file is faulty, or has too few texts of a label; the message names it.
        """
        aligner, config = self.aligner, self.aligner.config
        texts = load_labelled(Path(labelled) if labelled else config.task.path("labelled.jsonl"))
        evaluator = aligner.evaluator
        if config.evaluation.invert and not isinstance(evaluator, FunctionEvaluator):
            # The labels say what the first target is about.
            upright = replace(config, evaluation=replace(config.evaluation, invert=False))
            evaluator = open_config_evaluator(upright, aligner.adapter)
        return self._thread.run(measure(evaluator, aligner.engine, aligner.formatter, aligner.policy, texts))

    async def aprepare(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> PreparedPrompt:
        """Return a prompt as ``aevents`` takes it; it is encoded in this object's thread."""

        async def prepare() -> PreparedPrompt:
            return self.prepare(prompt, **options)

        return await asyncio.wrap_future(self._thread.submit(prepare()))

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """What can score texts, by the names that --evaluator has; of several each alone, too, and + for all."""
        specs, whole = self.settings.aligner.evaluators, self.aligner.evaluator
        names = [describe(spec).partition(" ")[0] for spec in sorted(specs, key=lambda spec: isinstance(spec, str))]
        parts = whole.evaluators if isinstance(whole, WorstOf) else []
        alone = dict(zip(names, parts, strict=True)) if len(parts) == len(names) else {}  # not if read-outs share one
        return {**alone, "+".join(names): whole}

    def prepare(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> PreparedPrompt:
        """Return a prompt as the aligner takes it, for use with ``run`` and ``aligner``."""
        return self._prepare(prompt, options)

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
        file = str(options.get("trace", "")).endswith(SUFFIX)
        if file or ("trace" in options and len(set(map(prompt_id, prompts))) < len(prompts)):
            raise RainError("trace takes a folder and different prompts here: each search gets a file of its own")
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
        prepared, budget = self._prepare(prompt, options), options.get("budget")
        if baseline:
            return await self.aligner.generate_baseline(prepared, budget=budget)
        return await self.aligner.generate(prepared, budget=budget)

    def _prepare(self, prompt: PromptLike, options: Mapping[str, Any]) -> PreparedPrompt:
        check_options(options)
        if not isinstance(prompt, Sequence):
            raise RainError(f"{prompt!r} is not a prompt: a string, a list of messages or a tuple of token ids")
        id, changed = prompt_id(prompt), {name: value for name, value in options.items() if name != "budget"}
        if changed.get("trace") is not None:
            changed["trace"] = self._trace(Path(changed["trace"]), id)
        stop = changed.get("stop") or ()
        changed["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        return self.aligner.prepare(id, prompt, **changed)

    def _trace(self, given: Path, id: str) -> Append:
        if (method := self.settings.aligner.method.method) != "rain":
            raise RainError(f"trace records searches, and method {method!r} does not search; leave trace out")
        return to_file(given if given.name.endswith(SUFFIX) else trace_file(given, id))


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


def _open(made: Settings, given: Collection[str], loaded: Any, tokenizer: Any) -> tuple[Engine, Any]:
    """Return the engine and its tokenizer."""
    if loaded is None:
        return open_engine(made.aligner.model, made.placement)
    if tokenizer is None:
        raise RainError("a loaded model needs its tokenizer: Rain(model, tokenizer)")
    for name in LOADED_ALREADY:
        if name in given:
            raise RainError(f"{name} cannot be chosen for a model that is loaded already; leave it out")
    return open_loaded(loaded, tokenizer, made.placement), tokenizer
