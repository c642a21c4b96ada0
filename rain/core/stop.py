"""When a continuation ends before its maximum length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Decode = Callable[[Sequence[int]], str]
"""Turns token ids into text, special tokens left out."""

BYTES_PER_CHARACTER = 4
"""UTF-8 needs at most this many, and a byte-level token holds at least one of them."""


@dataclass(frozen=True, slots=True)
class Stop:
    """When a continuation ends before ``max_tokens``.

    Attributes:
        token_ids: a generated token out of this set ends the continuation and is kept as its last token. The EOS token
            does not stop generation unless it is listed.
        strings: the continuation ends with the token that completes any of these strings in its decoded text.
    """

    token_ids: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()

    @property
    def window(self) -> int:
        """Number of last tokens in which a string that has just been completed must lie."""
        return BYTES_PER_CHARACTER * (max(map(len, self.strings), default=0) + 1)

    def met_by(self, tokens: Sequence[int], decode: Decode) -> bool:
        """Tell whether the last of these generated tokens ends the continuation."""
        if tokens[-1] in self.token_ids:
            return True
        if not self.strings:
            return False
        text = decode(tokens[-self.window :])
        return any(string in text for string in self.strings)

    def position(self, tokens: Sequence[int], decode: Decode) -> int | None:
        """Return the number of tokens up to and with the first that ends a continuation, None if none does."""
        return next((end for end in range(1, len(tokens) + 1) if self.met_by(tokens[:end], decode)), None)
