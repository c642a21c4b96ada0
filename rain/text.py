"""Between text and token ids: encoding that special tokens cannot enter, prompts, ends, pauses, text that is final."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from rain.core.config import LONGEST_SET
from rain.core.errors import RainError
from rain.core.stop import BYTES_PER_CHARACTER, Stop
from rain.core.types import Tokens

PAUSES = (",", ".", "?", ":", ";", "\n")
PAUSE_WINDOW = 8
"""Tokens at the end of a text that are decoded to see whether it pauses; more than any one character takes."""

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
        for place, part in enumerate(parts):
            text = messages[int(part)]["content"] if place % 2 else part
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


class TextStopPolicy:
    """What ends a response and a rollout (``rain.core.problem.StopPolicy``).

    Args:
        adapter: for the text and the end-of-sequence ids.
        stop_strings: a response ends before any of these (HH: a new turn of the human).
        to_end: roll out to the end of the response (TruthfulQA), not only to the next pause.
        rollout_limit: maximum length of a rollout (tokens); 0: only the response's own limit.
        pausing: ``adapter.pausing_tokens()``, computed once a model.
    """

    def __init__(
        self,
        adapter: TokenizerAdapter,
        stop_strings: tuple[str, ...] = (),
        to_end: bool = False,
        rollout_limit: int = 0,
        pausing: frozenset[int] = frozenset(),
    ) -> None:
        self.adapter, self._pausing = adapter, pausing
        self.to_end = to_end
        self.rollout_limit = rollout_limit
        self.stop = Stop(adapter.eos, stop_strings)
        self.rollout_stop = self.stop if to_end else Stop(adapter.eos | pausing, stop_strings)
        # A stop string may lie anywhere in the last token set, not only at its end: look back over a set as well.
        self._window = LONGEST_SET + BYTES_PER_CHARACTER * max(map(len, stop_strings), default=0)

    def also(self, strings: tuple[str, ...]) -> TextStopPolicy:
        """Return a policy by which a response ends before any of these strings, too."""
        if not strings:
            return self
        stops = (*self.stop.strings, *strings)
        return TextStopPolicy(self.adapter, stops, self.to_end, self.rollout_limit, self._pausing)

    def finish(self, response: Tokens) -> str | None:
        """Tell whether the response contains an end-of-sequence id or a stop string."""
        if not self.adapter.eos.isdisjoint(response):
            return "eos"
        if self.stop.strings and response:
            text = self.adapter.decode(response[-self._window :])
            if any(string in text for string in self.stop.strings):
                return "stop"
        return None

    def complete(self, response: Tokens) -> bool:
        """Tell whether a text needs no rollout: it has ended, or it ends in a pause."""
        if self.finish(response):
            return True
        return not self.to_end and self.adapter.decode(response[-PAUSE_WINDOW:]).endswith(PAUSES)

    def rollout_tokens(self, remaining: int) -> int:
        """Limit a rollout."""
        return min(remaining, self.rollout_limit) if self.rollout_limit else remaining

    def visible(self, response: Tokens) -> Tokens:
        """Return a response without special tokens and without what follows its end."""
        kept, text, cut = self._cut(response)
        return kept if cut < 0 else self.adapter.encode(text[:cut])

    def text(self, response: Tokens) -> str:
        """Return the text of a response, without what follows its end."""
        _, text, cut = self._cut(response)
        return text if cut < 0 else text[:cut]

    def lead(self, response: Tokens) -> str:
        """Return the whitespace in front of a response's text; none if there is nothing else."""
        text = self.text(response)
        return text[: len(text) - len(text.lstrip())] if text.strip() else ""

    def answer(self, response: Tokens, finish: str) -> str:
        """Return a response's text, stripped; of one that was cut without half characters (and half stop strings)."""
        if finish == "budget":
            return self.final_text(response)
        text = self.text(response)
        return (text.rstrip("\ufffd") if finish == "length" else text).strip()

    def _cut(self, response: Tokens) -> tuple[Tokens, str, int]:
        """Return the ids in front of the end that are not special, their text, and where a stop string begins (-1)."""
        kept: list[int] = []
        for token in response:
            if token in self.adapter.eos:
                break
            if token not in self.adapter.special:
                kept.append(token)
        text = self.adapter.decode(kept)
        return tuple(kept), text, min((p for p in map(text.find, self.stop.strings) if p >= 0), default=-1)

    def up_to_end(self, response: Tokens) -> Tokens:
        """Return the ids up to the first that ends a response, which is kept."""
        end = next((i for i, token in enumerate(response, 1) if token in self.adapter.eos), len(response))
        return response[:end]

    def final_text(self, response: Tokens) -> str:
        """Return the part of an unfinished response's text that no later token can change.

        Held back are trailing whitespace (the answer is stripped), a character of which bytes are missing, and what
        could be the beginning of a stop string.
        """
        text = self.text(response).rstrip("\ufffd")
        for string in self.stop.strings:
            for length in range(min(len(string) - 1, len(text)), 0, -1):
                if text.endswith(string[:length]):
                    text = text[:-length]
                    break
        return text.strip()


PROBES = ("", "a", "7", "\n")
"""Texts that begin differently: what their encodings have in common does not depend on the text."""


def common_start(sequences: Sequence[Tokens]) -> Tokens:
    """Return the longest common beginning."""
    first = min(sequences, key=len)
    for place, token in enumerate(first):
        if any(other[place] != token for other in sequences):
            return first[:place]
    return first
