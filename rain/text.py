"""Between text and token ids: encoding that specials cannot enter, prompts, ends and pauses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rain.core.engine import Stop
from rain.core.errors import RainError
from rain.core.types import Tokens, Vector
from rain.evaluators.templates import load_prompt

PAUSES = (",", ".", "?", ":", ";", "\n")
MARK = "\u2063question\u2063"


class Codec:
    """A tokenizer as RAIN uses it.

    Args:
        tokenizer: a transformers tokenizer, or anything with its ``encode``/``decode`` behaviour.

    Attributes:
        bos: ids that every text begins with (the tokenizer's own choice; often none).
        eos: ids that end a response.
    """

    def __init__(self, tokenizer: Any, eos: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.eos = frozenset([*eos, tokenizer.eos_token_id]) - {None}
        self.special = frozenset(tokenizer.all_special_ids)
        with_special = list(tokenizer.encode("a"))
        plain = list(tokenizer.encode("a", add_special_tokens=False))
        self.bos: Tokens = (
            tuple(with_special[: len(with_special) - len(plain)]) if plain == with_special[-len(plain) :] else ()
        )

    def encode(self, text: str) -> Tokens:
        """Encode text of a user or a model: names of special tokens in it stay ordinary text.

        Lone surrogates, which are no characters, become question marks.
        """
        valid = text.encode("utf-8", "replace").decode("utf-8")
        return tuple(self.tokenizer.encode(valid, add_special_tokens=False, split_special_tokens=True))

    def encode_trusted(self, text: str) -> Tokens:
        """Encode text of a chat template, in which special tokens are meant."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_after(self, before: str, text: str) -> Tokens:
        """Encode a text as it is tokenised behind another one (no dummy space, no merge with what stands before)."""
        anchor, whole = self.encode(before), self.encode(before + text)
        if whole[: len(anchor)] == anchor:
            return whole[len(anchor) :]
        return self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode ids, without special tokens."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)

    def pausing_tokens(self) -> frozenset[int]:
        """Return all ids whose text ends in a pause, that is in one of ``, . ? : ;`` or a newline."""
        ids = range(len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
        return frozenset(token for token, text in zip(ids, texts, strict=True) if text.endswith(PAUSES))


class TextRules:
    """What ends a response and a rollout (``rain.core.problem.Rules``).

    Args:
        codec: for the text and the end-of-sequence ids.
        stop_strings: a response ends before any of these (HH: a new turn of the human).
        to_end: roll out to the end of the response (TruthfulQA), not only to the next pause.
        rollout_limit: tokens of a rollout, at most; 0: no limit but the response's.
        pausing: ``codec.pausing_tokens()``, computed once a worker.
    """

    def __init__(
        self, codec: Codec, stop_strings: tuple[str, ...], to_end: bool, rollout_limit: int, pausing: frozenset[int]
    ) -> None:
        self.codec = codec
        self.to_end = to_end
        self.rollout_limit = rollout_limit
        self.stop = Stop(codec.eos, stop_strings)
        self.rollout_stop = self.stop if to_end else Stop(codec.eos | pausing, stop_strings)
        self._tail = 64 + 4 * max(map(len, stop_strings), default=0)

    def finish(self, response: Tokens) -> str | None:
        """Tell whether end-of-sequence or a stop string stands in the response."""
        if not self.codec.eos.isdisjoint(response):
            return "eos"
        if self.stop.strings and response:
            text = self.codec.decode(response[-self._tail :])
            if any(string in text for string in self.stop.strings):
                return "stop"
        return None

    def complete(self, response: Tokens) -> bool:
        """Tell whether a text needs no rollout: it has ended, or it ends in a pause."""
        if self.finish(response):
            return True
        return not self.to_end and self.codec.decode(response[-8:]).endswith(PAUSES)

    def rollout_tokens(self, room: int) -> int:
        """Limit a rollout."""
        return min(room, self.rollout_limit) if self.rollout_limit else room

    def visible(self, response: Tokens) -> Tokens:
        """Return a response without special tokens and without what follows its end."""
        kept: list[int] = []
        for token in response:
            if token in self.codec.eos:
                break
            if token not in self.codec.special:
                kept.append(token)
        text = self.codec.decode(kept)
        cut = min((place for place in map(text.find, self.stop.strings) if place >= 0), default=-1)
        return tuple(kept) if cut < 0 else self.codec.encode(text[:cut])


class Prompter:
    """Turns a question into a prompt, by a prompt file or by the model's chat template.

    Args:
        codec: of the model.
        path: prompt file with ``{question}``; its beginning is the same for all questions.
        chat: use the tokenizer's chat template instead; the prompt file is not read then.
    """

    def __init__(self, codec: Codec, path: Path, chat: bool) -> None:
        self.codec = codec
        self.chat = chat
        self.before, self.after = self._chat_parts() if chat else load_prompt(path)

    def _chat_parts(self) -> tuple[str, str]:
        tokenizer = self.codec.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise RainError("the model has no chat template; leave --chat-template out")
        turn = [{"role": "user", "content": MARK}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, _, after = text.partition(MARK)
        return before, after

    def encode(self, question: str) -> Tokens:
        """Return the prompt's ids; the question's text cannot become special tokens."""
        if self.chat:
            codec = self.codec
            return codec.encode_trusted(self.before) + codec.encode(question) + codec.encode_trusted(self.after)
        return self.codec.bos + self.codec.encode(self.before + question + self.after)

    def shared(self) -> Tokens:
        """Return ids that (nearly) every prompt begins with; () if there are too few to be worth pinning."""
        if self.chat:
            ids = self.codec.encode_trusted(self.before)
        else:
            ids = self.codec.bos + common_start(
                [self.codec.encode(self.before + text) for text in ("", "a", "7", "\n")]
            )
        return ids if len(ids) >= 16 else ()


def common_start(sequences: Sequence[Tokens]) -> Tokens:
    """Return the longest common beginning."""
    first = min(sequences, key=len)
    for place, token in enumerate(first):
        if any(other[place] != token for other in sequences):
            return first[:place]
    return first


class TextsEncoder(Protocol):
    """Embeds texts."""

    async def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Return one sentence embedding for each text."""


class TextEncoder:
    """Embeds token ids of one language model by their text (``rain.core.problem.Encoder``)."""

    def __init__(self, encoder: TextsEncoder, text_of: Callable[[Tokens], str]) -> None:
        self._encoder, self._text_of = encoder, text_of

    async def encode(self, spans: Sequence[Tokens]) -> list[Vector]:
        """Return one embedding for each span."""
        return await self._encoder.encode([self._text_of(span) for span in spans]) if spans else []
