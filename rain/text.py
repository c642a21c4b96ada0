"""Between text and token ids: encoding that special tokens cannot enter, conversations, what texts begin with."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any

from rain.core.errors import RainError
from rain.core.types import Tokens

PAUSES = (",", ".", "?", ":", ";", "\n")
MARK = "\u2063{}\u2063"
"""Placeholder for the content of message i while a chat template is rendered: its number, in invisible marks."""

ENCODING = threading.Lock()
"""Held while text is encoded: a switch of the tokenizer, not of the call, says whether special tokens stay text."""

Message = Mapping[str, str]
"""One turn of a conversation: ``{"role": "user", "content": "..."}``."""


class TokenizerAdapter:
    """A tokenizer as RAIN uses it.

    Args:
        tokenizer: a transformers tokenizer, or anything with its ``encode``/``decode`` behaviour.
        eos: ids that end a response, besides the tokenizer's own.

    Attributes:
        bos: ids that every text begins with (the tokenizer's own choice; often none).
        eos: all ids that end a response.
    """

    def __init__(self, tokenizer: Any, eos: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.eos = frozenset([*eos, tokenizer.eos_token_id]) - {None}
        self.special = frozenset(tokenizer.all_special_ids)
        with_special = list(tokenizer.encode("a"))
        plain = list(tokenizer.encode("a", add_special_tokens=False))
        after_newline, newline = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in ("\na", "\n"))
        self._anchor = "" if after_newline == (*newline, *plain) else "\n"  # what a text needs in front to get no space
        self.bos: Tokens = (
            tuple(with_special[: len(with_special) - len(plain)]) if plain == with_special[-len(plain) :] else ()
        )

    def encode(self, text: str) -> Tokens:
        """Encode text of a user or a model: names of special tokens in it stay ordinary text.

        Lone surrogates, which are not characters, become question marks.
        """
        valid = text.encode("utf-8", "replace").decode("utf-8")
        with ENCODING:
            return tuple(self.tokenizer.encode(valid, add_special_tokens=False, split_special_tokens=True))

    def encode_trusted(self, text: str) -> Tokens:
        """Encode text of a chat template, in which special tokens are meant."""
        with ENCODING:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_after(self, before: str, text: str, *, trusted: bool = False) -> Tokens:
        """Encode a text as it is tokenised after another one (no dummy space, no merge with what precedes it)."""
        encode = self.encode_trusted if trusted else self.encode
        anchor, whole = encode(before), encode(before + text)
        if whole[: len(anchor)] == anchor:
            return whole[len(anchor) :]
        return encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode ids, without special tokens."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)

    def pausing_tokens(self) -> frozenset[int]:
        """Return all ids whose text ends in a pause, that is in one of ``, . ? : ;`` or a newline."""
        ids = range(len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
        return frozenset(token for token, text in zip(ids, texts, strict=True) if text.endswith(PAUSES))

    @property
    def can_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def encode_chat(self, messages: Sequence[Message], *, continues: bool = False) -> Tokens:
        """Encode a conversation: the chat template's own text may contain special tokens, the contents may not.

        The template is rendered with placeholders as contents; some templates want contents in parts.

        Args:
            messages: the turns.
            continues: end with the last message, not with the template's beginning of a reply.

        Raises:
            RainError: there is no chat template, or it refuses the conversation or leaves out a message.
        """
        if not self.can_chat:
            raise RainError("the model has no chat template; give the prompt as one string")
        parts = re.split(MARK.format(r"(\d+)"), self._render(messages, continues))  # of the template, number, ...
        if continues:
            del parts[len(parts) - parts[::-1].index(str(len(messages) - 1)) :]
        ids: Tokens = ()
        spaces = ""
        for place, part in enumerate(parts):
            if place % 2:  # a space in front of a content belongs to its first token
                text = spaces + messages[int(part)]["content"]
            else:
                text = part.rstrip(" ") if place + 1 < len(parts) else part
                spaces = part[len(text) :]
            ids += self.encode_after(self._anchor if ids else "", text, trusted=not place % 2)
        return ids

    def _render(self, messages: Sequence[Message], continues: bool) -> str:
        """Return the chat template's text with a placeholder for each content."""
        failure, marks = "", [MARK.format(i) for i in range(len(messages))]
        for contents in (marks, [[{"type": "text", "text": mark}] for mark in marks]):
            turns = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
            try:
                options = {"tokenize": False, "add_generation_prompt": not continues}
                text = str(self.tokenizer.apply_chat_template(turns, **options))
            except Exception as error:  # Jinja's own errors, such as that roles must alternate
                failure = failure or f"refuses the conversation: {error}"
                continue
            left_out = [f"{i} ({messages[i]['role']})" for i, mark in enumerate(marks) if mark not in text]
            if not left_out:
                return text
            failure = failure or f"leaves out message {left_out[0]}"
        raise RainError(f"the model's chat template {failure}")


PROBES = ("", "a", "7", "\n")
"""Texts that begin differently: what their encodings have in common does not depend on the text."""


def common_start(sequences: Sequence[Tokens]) -> Tokens:
    """Return the longest common beginning."""
    return tuple(commonprefix(sequences))  # of a path's letters or of any sequences
