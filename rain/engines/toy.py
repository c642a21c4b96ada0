"""A language model made of a formula: bytes in, bytes out, no weights, no torch; for dry runs and tests of commands."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rain.core.engine import Continuation, Engine, SamplingParams, Session, Usage
from rain.core.types import Vector

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
        """Return the text of bytes; what is not UTF-8 becomes the replacement character."""
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
    """Answers by ``log_distribution``."""

    context = 1 << 16
    eos = (EOS,)
    dtype = "float64"

    def __init__(self) -> None:
        self.tokenizer = ToyTokenizer()

    def session(self, name: str) -> ToySession:
        """See ``Engine.session``."""
        return ToySession(self)


class ToySession(Session):
    """Nothing is cached; every request counts as one forward pass."""

    def __init__(self, engine: ToyEngine) -> None:
        self.engine = engine
        self.usage = Usage()

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        """See ``Session.generate``."""
        self._count(prefix, params.max_tokens)
        greedy = int(params.greedy_first)
        numbers = range(params.first + greedy, params.first + params.n)
        streams = [None] * greedy + [random.Random(f"{params.seed}/{i}") for i in numbers]
        return [self._continue(list(prefix), params, stream) for stream in streams]

    def _continue(self, prefix: list[int], params: SamplingParams, stream: random.Random | None) -> Continuation:
        """Return one continuation; without a stream the greedy one."""
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < params.max_tokens:
            scaled = log_distribution(prefix + tokens) / params.temperature
            order = np.lexsort((np.arange(len(scaled)), -scaled))[: params.top_k or None]
            chances = np.exp(scaled[order]) / np.exp(scaled[order]).sum()
            place = int(np.searchsorted(np.cumsum(chances), stream.random())) if stream else 0
            place = min(place, len(order) - 1)
            tokens.append(int(order[place]))
            logprobs.append(float(np.log(chances[place])))
            self.usage.tokens_computed += 1
            if params.stop.met_by(tokens, self.engine.tokenizer.decode):
                return Continuation(tuple(tokens), tuple(logprobs), "stop")
        return Continuation(tuple(tokens), tuple(logprobs), "length")

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        """See ``Session.next_logprobs``."""
        self._count(prefix)
        logprobs = log_distribution(prefix)
        order = np.lexsort((np.arange(len(logprobs)), -logprobs))[:top]
        return {int(token): float(logprobs[token]) for token in (*order, *ids)}

    def _count(self, prefix: Sequence[int], max_tokens: int = 1) -> None:
        self.engine.check_request(prefix, max_tokens)
        self.usage.requests += 1
        self.usage.forward_passes += 1
        self.usage.tokens_computed += len(prefix)


class ToyEncoder:
    """Embeds a text by its letters: (32,), of length 1."""

    seconds, takes_turns = 0.0, True  # too little to be measured

    async def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Return one embedding for each text."""
        counts = [np.bincount([ord(letter) % 32 for letter in text], minlength=32) + 1e-3 for text in texts]
        return [count / np.linalg.norm(count) for count in counts]
