"""A language model made of a formula: bytes in, bytes out, no weights, no torch; for dry runs and tests of commands."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rain.core.engine import Continuation, Engine, Stop, Usage, check_request
from rain.core.types import Tokens, Vector

EOS = 256
LETTERS = b"etaoinshrdlu    ,. AB"
WIDTH = 16


class ToyTokenizer:
    """One token a byte, and end-of-sequence; behaves like a transformers tokenizer as far as RAIN asks."""

    eos_token_id = EOS
    all_special_ids = (EOS,)
    chat_template = None

    def __len__(self) -> int:
        return EOS + 1

    def encode(self, text: str, **options: Any) -> list[int]:
        """Return the text's UTF-8 bytes; lone surrogates become question marks."""
        return list(text.encode("utf-8", errors="replace"))

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        """Return the text of bytes; what is no UTF-8 becomes the replacement character."""
        return bytes(token for token in tokens if token < EOS).decode("utf-8", errors="replace")

    def batch_decode(self, sequences: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """Return the text of each sequence."""
        return [self.decode(tokens) for tokens in sequences]


def log_distribution(prefix: Sequence[int]) -> NDArray[np.float64]:
    """Return log-probabilities of all 257 next tokens; they depend on the last eight tokens and the length only."""
    recent = f"{len(prefix)}:{list(prefix[-8:])}"
    digest = hashlib.blake2b(recent.encode(), digest_size=2 * WIDTH).digest()
    logits = np.full(EOS + 1, -12.0)
    for place in range(WIDTH):
        logits[LETTERS[digest[2 * place] % len(LETTERS)]] = digest[2 * place + 1] / 64
    if digest[0] < 8:
        logits[EOS] = 4.0
    result: NDArray[np.float64] = logits - np.log(np.exp(logits).sum())
    return result


class ToyEngine(Engine):
    """Answers by ``log_distribution``; every request counts as one forward pass."""

    context = 1 << 16

    def __init__(self) -> None:
        self.tokenizer = ToyTokenizer()
        self.usage = Usage()

    def session(self, name: str) -> ToyEngine:
        """Return an engine with counters of its own."""
        return ToyEngine()

    async def generate(
        self,
        prefix: Sequence[int],
        *,
        n: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        greedy_first: bool = False,
        stop: Stop = Stop(),  # noqa: B008 - frozen
        seed: int = 0,
    ) -> list[Continuation]:
        """See ``Engine.generate``."""
        check_request(prefix, self.context, n, max_tokens)
        self._count(len(prefix))
        streams = [None if greedy_first and i == 0 else random.Random(f"{seed}/{i}") for i in range(n)]
        return [self._continue(tuple(prefix), max_tokens, temperature, top_k, stop, stream) for stream in streams]

    def _continue(
        self, prefix: Tokens, max_tokens: int, temperature: float, top_k: int, stop: Stop, stream: random.Random | None
    ) -> Continuation:
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < max_tokens:
            scaled = log_distribution((*prefix, *tokens)) / temperature
            order = np.lexsort((np.arange(len(scaled)), -scaled))[: top_k or None]
            chances = np.exp(scaled[order]) / np.exp(scaled[order]).sum()
            place = int(np.searchsorted(np.cumsum(chances), stream.random())) if stream else 0
            place = min(place, len(order) - 1)
            tokens.append(int(order[place]))
            logprobs.append(float(np.log(chances[place])))
            self.usage.tokens_computed += 1
            text = self.tokenizer.decode(tokens)
            if tokens[-1] in stop.token_ids or any(string in text for string in stop.strings):
                return Continuation(tuple(tokens), tuple(logprobs), "stop")
        return Continuation(tuple(tokens), tuple(logprobs), "length")

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Engine.next_logprobs``."""
        check_request(prefix, self.context)
        self._count(len(prefix))
        logprobs = log_distribution(prefix)
        order = np.lexsort((np.arange(len(logprobs)), -logprobs))[:top]
        return {int(token): float(logprobs[token]) for token in (*order, *ids)}

    def _count(self, tokens: int) -> None:
        self.usage.requests += 1
        self.usage.forward_passes += 1
        self.usage.tokens_computed += tokens


class ToyEncoder:
    """Embeds a text by its letters: (32,), of length 1."""

    async def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Return one embedding for each text."""
        counts = [np.bincount([ord(letter) % 32 for letter in text], minlength=32) + 1e-3 for text in texts]
        return [count / np.linalg.norm(count) for count in counts]
