"""The client of one completions server: it tries until a request is answered."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from rain.core.concurrency import gather_or_cancel
from rain.core.errors import RainError, UnclearFault, WorkerFault
from rain.engines.remote.engine import CompletionRequest, CompletionResult
from rain.engines.remote.protocol import ProtocolError, read_reply, request_body
from rain.keys import ENGINE_KEY, key_for, origin
from rain.models.info import UNLIMITED
from rain.terminal import one_line
from rain.transport import MAX_REPLY_BYTES, ReplyTooLarge, http_client

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LONGEST_PAUSE = 30.0
"""Seconds: the cap on one pause between tries, unless the server asks for a longer one."""

TRANSIENT = (408, 409, 425, 429)
"""HTTP statuses below 500 that are worth another try."""


class Unreachable(WorkerFault):
    """A server gave no answer, however often it was tried."""


class TransientError(Exception):
    """A failure that may pass; ``retry_after`` is the pause that the server asks for, seconds."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait, in seconds.

    Attributes:
        reply: for the whole reply to one try; long enough for a whole plain answer on a busy server.
        retry: after the first failure a request is tried again for so long; long enough for a server to restart.
        pause: after the first failure; it doubles with every further one.
        again: before a server that was given up is asked again.
    """

    reply: float = 600.0
    retry: float = 180.0
    pause: float = 0.5
    again: float = 30.0


class ServerClient:
    """One server: its address, what the probe has found out about it, and tries until a request is answered.

    Args:
        url: of the server, with or without /v1.
        policy: with failures.
        vocabulary: number of token ids that the model has, at least.
        key: the environment variable with its key; OpenAI's own address also takes that of OPENAI_API_KEY.

    Attributes:
        url: ends in /v1; without the credentials that it may have been given with.
        model: name of the model there.
        context: longest sequence in tokens.
        one_seed_one_text: samples of one request would all be the same, so that each needs a request of its own.
        gives_ids: token ids come without log-probabilities, too; elsewhere one is requested with each token.
        bans_eos: ``ignore_eos`` makes the end-of-sequence token impossible there (llama.cpp) and is not sent.
        lost: it did not answer, and is left alone until a probe finds it back.
        asked: when it was last tried (time.monotonic).
    """

    def __init__(
        self,
        url: str,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        vocabulary: int = 0,
        key: str = ENGINE_KEY,
    ) -> None:
        self._base, self._key = _normal(url), key
        self.url = origin(self._base) + urlsplit(self._base).path
        self.policy, self.vocabulary = policy, vocabulary
        self.model, self.context = "", UNLIMITED
        self.one_seed_one_text = self.gives_ids = self.bans_eos = self.lost = False
        self.asked = 0.0
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, path: str, body: Mapping[str, Any] | None = None, policy: RetryPolicy | None = None) -> Any:
        """Send a request (GET without a body) and return the reply, an object.

        Raises:
            Unreachable: no try was answered.
            WorkerFault: the server refuses every request.
            UnclearFault: the reply is too large.
            RainError: the server refuses this request.
        """
        policy = policy or self.policy
        pause, tries, end = policy.pause, 1, math.inf
        while True:
            try:
                return await self._try(path, body, policy.reply)
            except TransientError as trouble:
                now = self.asked = time.monotonic()
                end = min(end, now + policy.retry)
                if now >= end:
                    raise Unreachable(f"server {self.url} does not answer: {trouble} ({tries} tries)") from trouble
                wait = max(pause, trouble.retry_after) * random.uniform(1.0, 1.25)  # so that not all come back in step
            await asyncio.sleep(min(wait, end - now))
            pause, tries = min(2 * pause, LONGEST_PAUSE), tries + 1

    async def complete(self, request: CompletionRequest, policy: RetryPolicy | None = None) -> CompletionResult:
        """Have a request answered.

        Raises:
            UnclearFault: the reply makes no sense; see also ``send``.
        """
        if not self.gives_ids:
            request = request._replace(logprobs=request.logprobs or 1)
        params, parts = request.params, [request]
        if self.one_seed_one_text:
            parts = [request._replace(params=replace(params, n=1, seed=params.seed + i)) for i in range(params.n)]
        bodies = [request_body(self.model, part, self.bans_eos) for part in parts]
        replies = await gather_or_cancel(*(self.send("/completions", body, policy) for body in bodies))
        try:
            pairs = zip(replies, parts, strict=True)
            results = [read_reply(reply, part, self.vocabulary) for reply, part in pairs]
        except ProtocolError as error:
            raise UnclearFault(f"server {self.url} cannot be used: {error}") from error
        return CompletionResult([sample for result in results for sample in result.samples], results[0].cached)

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.close()
        self._client = None

    async def _try(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
        import openai

        client, plain = self._connected(), cast(Any, object)
        try:
            if body is None:
                reply = await client.get(path, cast_to=plain, options={"timeout": timeout})
            else:
                reply = await client.post(path, body=body, cast_to=plain, options={"timeout": timeout})
        except openai.APIStatusError as error:
            raise self._classify(error) from error
        except openai.APITimeoutError as error:
            raise TransientError(f"no whole reply within {timeout:g} s") from error
        except (openai.APIConnectionError, ReplyTooLarge) as error:
            cause = error.__cause__ or error
            if isinstance(cause, ReplyTooLarge):
                limit = f"{MAX_REPLY_BYTES >> 20} MiB"
                raise UnclearFault(f"server {self.url} cannot be used: it sends more than {limit} at once") from error
            raise TransientError(f"connection failed: {_short(str(cause))}") from error
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            raise TransientError(f"malformed reply: {_short(str(error))}") from error
        if not isinstance(reply, dict):
            raise TransientError("malformed reply: not a JSON object")
        return reply

    def _connected(self) -> AsyncOpenAI:
        """Return the client of the running event loop; connections cannot move between loops."""
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            key = key_for(self._base, self._key) or "none"
            client = AsyncOpenAI(api_key=key, base_url=self._base, max_retries=0, http_client=http_client())
            client.organization = client.project = client.admin_api_key = None  # they belong to another key
            self._client, self._loop = client, loop
        return self._client

    def _classify(self, error: APIStatusError) -> Exception:
        """Return the exception that says what to do about an HTTP error: try again, or stop."""
        status, said = error.status_code, _short(error.response.text)
        if status in TRANSIENT or status >= 500:
            return TransientError(f"HTTP {status} {said}".strip(), _seconds(error.response.headers.get("retry-after")))
        if status in (401, 403):
            return WorkerFault(f"server {self.url} refuses the key (HTTP {status}); set {self._key}")
        if status == 404:
            return WorkerFault(f"server {self.url} has no such model or path; check --base-url ({said})")
        if status < 400:
            there = _short(error.response.headers.get("location", "elsewhere"))
            return WorkerFault(f"server {self.url} sends to {there} (HTTP {status}); name the final --base-url")
        return RainError(f"server {self.url} refuses a request (HTTP {status}): {said}")


def _short(said: str) -> str:
    """Return the beginning of a text from a server as one printable line."""
    return one_line(" ".join(said.split()))[:300]


def _seconds(header: str | None) -> float:
    """Return the pause that a Retry-After header asks for, in seconds or as a date; 0 where it cannot be read."""
    try:
        return min(max(0.0, float(header or 0)), float(UNLIMITED))  # NaN becomes 0
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header or "").timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _normal(url: str) -> str:
    """Return a base URL that ends in /v1."""
    url = url.strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise RainError(f"--base-url has {url!r}, which is not a URL; write http://HOST:PORT, several with commas")
    return url if url.endswith("/v1") else f"{url}/v1"
