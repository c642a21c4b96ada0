"""Prompts: a question or a conversation as token ids, by a prompt file or by the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rain.core.errors import PromptTooLong, RainError
from rain.core.types import Tokens
from rain.text import PROBES, Message, TokenizerAdapter, common_start

if TYPE_CHECKING:
    from typing_extensions import TypeIs

WORTH_CACHING = 16
"""Shared prefixes shorter than this (tokens) are not worth a cache entry of their own."""

LONGEST_TOKEN = 16
"""Characters that a token stands for at most, on average: a longer prompt is refused before it is tokenised."""


class PromptFile(NamedTuple):
    """A prompt format as plain text: what stands before and after the question."""

    before: str
    after: str


class PromptFormatter:
    """Turns a question or a conversation into a prompt's ids, by a prompt file or by the model's chat template.

    Args:
        adapter: of the model.
        prompt_file: the format of a question; None: the chat template.

    Raises:
        RainError: there is neither a prompt file nor a chat template.
    """

    def __init__(self, adapter: TokenizerAdapter, prompt_file: PromptFile | None) -> None:
        if prompt_file is None and not adapter.can_chat:
            raise RainError("the model has no chat template; leave --chat-template out")
        self.adapter = adapter
        self.prompt_file = prompt_file

    def encode(self, prompt: str | Sequence[Message], *, raw: bool = False) -> Tokens:
        """Return the prompt's ids; text in it cannot become special tokens.

        Args:
            prompt: a question, or a conversation, which is always rendered with the chat template. A last message of
                the assistant is continued.
            raw: take a string as it is, without prompt file and chat template.

        Raises:
            RainError: the conversation is malformed, or the model has no chat template for it.
        """
        if isinstance(prompt, str) and raw:
            return self.adapter.bos + self.adapter.encode(prompt)
        if isinstance(prompt, str) and self.prompt_file is not None:
            before, after = self.prompt_file
            return self.adapter.bos + self.adapter.encode(before + prompt + after)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else check_messages(prompt)
        return self.adapter.encode_chat(messages, continues=messages[-1]["role"] == "assistant")

    def encode_response(self, text: str) -> Tokens:
        """Return the ids of a whole response to a question, as the model would write it after the prompt."""
        if self.prompt_file is None:
            return self.adapter.encode(text.strip())
        before = self.prompt_file.after or "."
        return self.adapter.encode_after(before, text.strip() if before[-1:].isspace() else f" {text.strip()}")

    def shared_prefix(self) -> Tokens:
        """Return ids that (nearly) every prompt begins with; () if there are too few to be worth caching."""
        ids = common_start([self.encode(text) for text in PROBES])
        return ids if len(ids) >= WORTH_CACHING else ()


def check_length(prompt: str | Sequence[Message], context: int) -> None:
    """Refuse a prompt that cannot possibly fit into the model's context (tokens), before it is tokenised."""
    contents = [prompt] if isinstance(prompt, str) else [message["content"] for message in check_messages(prompt)]
    length = sum(map(len, contents))
    if length > LONGEST_TOKEN * context:
        what = f"the prompt of {length} characters leaves no room for an answer in the model's context of"
        raise PromptTooLong(f"{what} {context} tokens", None, context)


def check_messages(messages: Sequence[Message]) -> Sequence[Message]:
    """Return a conversation whose messages all have a role and a content of text.

    Raises:
        RainError: it is empty, or a message lacks a field; the message names its number.
    """
    if not messages:
        raise RainError("the conversation is empty; it needs at least one message")
    for i, message in enumerate(messages):
        for name in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(name), str):
                raise RainError(f"message {i} of the conversation lacks the field {name!r}, or it is not text")
    return messages


def is_tokens(prompt: object) -> TypeIs[Tokens]:
    """Tell the ids of a prompt from a text or a conversation."""
    return isinstance(prompt, tuple) and all(isinstance(token, int) for token in prompt)
