"""What a call of ``Rain`` takes: a prompt in one of its forms, and options for that call alone."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from rain.core.config import Budget
from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator
from rain.methods.config import MethodConfig
from rain.prompts import is_tokens
from rain.text import Message

PromptLike = str | Sequence[Message] | Tokens
"""A question, a conversation, or the token ids of a prompt."""


class CallOptions(TypedDict, total=False):
    """Options of one call, each in place of what the object would do.

    Attributes:
        seed: of the random numbers.
        max_new_tokens: length of the answer, at most (tokens).
        budget: simulations, tokens or seconds; the answer so far is the answer when it ends.
        question: what the evaluators read in place of the prompt.
        stop: a string before which the answer ends, or several.
        raw: continue the text itself, without prompt file and chat template.
        trace: a folder, or for one prompt also a file NAME.jsonl.gz: the search is recorded there; a search of the same
            prompt that is there is replaced.
    """

    seed: int | None
    max_new_tokens: int | None
    budget: Budget | None
    question: str | None
    stop: str | Sequence[str] | None
    raw: bool
    trace: str | Path | None


class EventOptions(CallOptions, total=False):
    """Options of ``Rain.aevents``, too.

    Attributes:
        evaluator: one of ``Rain.evaluators``, in place of the object's own.
        method: in place of that of the settings.
    """

    evaluator: Evaluator | None
    method: MethodConfig | None


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse names that are not options of a call.

    Raises:
        RainError: it names the first unknown one, and the option that resembles it most.
    """
    for name in options:
        if name not in CallOptions.__annotations__:
            near = difflib.get_close_matches(name, CallOptions.__annotations__, 1)
            raise RainError(f"a call has no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def is_one_prompt(prompts: Any) -> bool:
    """Tell one prompt from a list of prompts."""
    if isinstance(prompts, (str, Mapping)) or is_tokens(prompts) or not isinstance(prompts, Iterable):
        return True
    return isinstance(prompts, Sequence) and bool(prompts) and all(isinstance(each, Mapping) for each in prompts)


def prompt_id(prompt: Any) -> str:
    """Return the id of a prompt, which its random numbers come from; equal prompts have the same."""
    return f"text-{hashlib.sha256(json.dumps(prompt, default=str).encode()).hexdigest()[:16]}"
