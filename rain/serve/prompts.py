"""From the messages of a chat to what the library takes as a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rain.aligner import Aligner
from rain.calls import PromptLike


class Asked(NamedTuple):
    """A prompt and the options that belong to it."""

    prompt: PromptLike
    options: Mapping[str, Any]


def chat_prompt(aligner: Aligner, messages: Sequence[Mapping[str, str]]) -> Asked:
    """Return what to ask: one user's message is a question as in ``rain ask``, anything else a conversation.

    A model without a chat template gets a conversation as one text, in the words of the evaluation template.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return Asked(messages[0]["content"], {})
    if aligner.adapter.can_chat or aligner.config.prompt_file is None:
        return Asked(messages, {})
    continued = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
    text = aligner.config.template.conversation(messages if continued is None else messages[:-1])
    if continued is None:
        return Asked(text, {})
    before, after = aligner.config.prompt_file
    return Asked(f"{before}{text}{after} {continued}", {"raw": True, "question": text})
