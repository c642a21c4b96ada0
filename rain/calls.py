"""What a call of ``Rain`` takes, a prompt in one of its forms and options for that call alone, and how it begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypedDict

from rain.aligner import Aligner
from rain.core.config import Budget
from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator
from rain.generation import PreparedPrompt
from rain.methods.base import Generation
from rain.methods.config import MethodConfig
from rain.plain import PIECE, PlainGeneration
from rain.prompts import is_tokens
from rain.settings import check_names
from rain.text import Message
from rain.trace.record import SUFFIX, Append, to_file, trace_file

PromptLike = str | Sequence[Message] | Tokens
"""A question, a conversation, or the token ids of a prompt."""


class CallOptions(TypedDict, total=False):
    """Options of one call, each in place of what the object would do.

    Attributes:
        seed: of the random numbers.
        max_new_tokens: length of the answer, at most (tokens).
        budget: of simulations, tokens or seconds; once it is spent, the answer so far is the answer.
        question: what the evaluators read in place of the prompt.
        stop: a string before which the answer ends, or several; none may be empty.
        raw: continue the text itself, without prompt file and chat template (remind still puts its words around it).
        trace: a folder, or for one prompt also a file NAME.jsonl.gz: the search is recorded there, in place of an
            earlier one of the same prompt. Not for greedy answers.
    """

    seed: int | None
    max_new_tokens: int | None
    budget: Budget | None
    question: str | None
    stop: str | Sequence[str] | None
    raw: bool
    trace: str | Path | None


INTEGER = (Integral, "an integer")
OPTION_TYPES: Mapping[str, tuple[Any, str]] = {
    "seed": INTEGER,
    "max_new_tokens": INTEGER,
    "budget": (Budget, "a Budget"),
    "question": (str, "a text"),
    "raw": (bool, "True or False"),
    "trace": ((str, Path), "a path"),
}
"""Types of options whose wrong use would show late, and how a message names them."""


class EventOptions(CallOptions, total=False):
    """Options of ``Rain.aevents``, too.

    Attributes:
        evaluator: one of ``Rain.evaluators``, in place of the object's own.
        method: in place of that of the settings.
    """

    evaluator: Evaluator | None
    method: MethodConfig | None


def is_one_prompt(prompts: Any) -> bool:
    """Tell one prompt from a list of prompts."""
    if isinstance(prompts, (str, Mapping)) or is_tokens(prompts) or not isinstance(prompts, Iterable):
        return True
    return isinstance(prompts, Sequence) and bool(prompts) and all(isinstance(each, Mapping) for each in prompts)


def prompt_id(prompt: Any) -> str:
    """Return the id of a prompt, which its random numbers come from; equal prompts have the same."""
    return f"text-{hashlib.sha256(json.dumps(prompt, default=str).encode()).hexdigest()[:16]}"


def prepare_prompt(
    aligner: Aligner, prompt: PromptLike, options: Mapping[str, Any], plain: bool = False
) -> PreparedPrompt:
    """Return a prompt as an aligner takes it (``plain``: to answer greedily), with what the options of a call say.

    Raises:
        RainError: there is no such prompt or option, or they do not suit the aligner.
    """
    check_names(options, CallOptions.__annotations__, "a call has no option")
    several = isinstance(prompt, list) and not all(isinstance(each, Mapping) for each in prompt)
    if several or not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise RainError(f"{prompt!r} is not a prompt: a string, a list of messages or a tuple of token ids")
    for name, (kind, what) in OPTION_TYPES.items():
        value = options.get(name)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise RainError(f"{name} is {value!r}; it must be {what}")
    id, changed = prompt_id(prompt), {name: value for name, value in options.items() if name != "budget"}
    if changed.get("trace") is not None:
        changed["trace"] = _trace(Path(changed["trace"]), id, "baseline" if plain else aligner.config.method.method)
    stop = () if changed.get("stop") is None else changed["stop"]
    changed["stop"] = (stop,) if isinstance(stop, str) or not isinstance(stop, Iterable) else tuple(stop)
    if not all(isinstance(one, str) and one for one in changed["stop"]):
        raise RainError(f"stop is {stop!r}; it must be a string or several, none of them empty")
    return aligner.prepare(id, prompt, **changed)


def begin(
    aligner: Aligner, prompt: PromptLike | PreparedPrompt, options: Mapping[str, Any], plain: bool = False
) -> Generation | PlainGeneration:
    """Return the answer that ``Rain.aevents`` sends, about to begin."""
    rest = dict(options)
    evaluator, method, budget = rest.pop("evaluator", None), rest.pop("method", None), rest.get("budget")
    if not isinstance(prompt, PreparedPrompt):
        prompt = prepare_prompt(aligner, prompt, rest, plain)
    elif late := set(rest) - {"budget"}:
        raise RainError(f"the prompt is prepared already; {min(late)} is an option of aprepare")
    if plain:
        return aligner.begin_baseline(prompt, PIECE, budget)
    return aligner.begin(prompt, budget, evaluator, method)


def _trace(given: Path, id: str, method: str) -> Append:
    """Return what records a search: in the file that was given, or in its own file in the folder that was given."""
    if method != "rain":
        raise RainError(f"trace records searches, and {method} does not search; leave trace out")
    return to_file(given if given.name.endswith(SUFFIX) else trace_file(given, id))


def check_traces(prompts: Sequence[PromptLike], options: Mapping[str, Any]) -> None:
    """Refuse to record the searches of several prompts in the same file."""
    trace = options.get("trace")
    if str(trace).endswith(SUFFIX) or (trace is not None and len(set(map(prompt_id, prompts))) < len(prompts)):
        raise RainError("trace takes a folder and different prompts here: each search gets a file of its own")
