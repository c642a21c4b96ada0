"""The client of one completions server: it tries until a request is answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from rain.core.errors import RainError
from rain.engines.remote.engine import CompletionRequest, CompletionResult
from rain.engines.remote.protocol import ProtocolError, read_reply, request_body

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LONGEST_PAUSE = 30.0
"""Seconds: the cap on one pause between tries."""

TRANSIENT = (408, 409, 425, 429)
"""HTTP statuses below 500 that are worth another try."""


class Unreachable(RainError):
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
        reply: for the reply to one try; long enough for a whole plain answer on a busy server.
        retry: after the first failure a request is tried again for so long; long enough for a server to restart.
        pause: after the first failure; it doubles with every further one.
    """

    reply: float = 600.0
    retry: float = 180.0
    pause: float = 0.5


class ServerClient:
    """One server: its address, what the probe has found out about it, and tries until a request is answered.

    Attributes:
        url: ends in /v1.
        model: name of the model there.
        context: longest sequence in tokens.
        one_seed_one_text: samples of one request would all be the same, so that each needs a request of its own.
        bans_eos: ``ignore_eos`` makes the end-of-sequence token impossible there (llama.cpp) and is not sent.
        lost: it did not answer, and is left alone.
    """

    def __init__(self, url: str, policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 - frozen
        self.url = _normal(url)
        self.model, self.context = "", 1 << 30
        self.one_seed_one_text = self.bans_eos = self.lost = False
        self._policy = policy
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, path: str, body: Mapping[str, Any] | None = None, policy: RetryPolicy | None = None) -> Any:
        """Send a request (GET without a body) and return the reply, an object.

        Raises:
            Unreachable: no try was answered.
            RainError: the server refuses the request.
        """
        policy = policy or self._policy
        loop, pause, tries = asyncio.get_running_loop(), policy.pause, 1
        end: float | None = None
        while True:
            try:
                return await self._try(path, body, policy.reply)
            except TransientError as trouble:
                end = loop.time() + policy.retry if end is None else end
                wait = max(pause, min(trouble.retry_after, LONGEST_PAUSE))
                if loop.time() + wait > end:
                    raise Unreachable(f"server {self.url} does not answer: {trouble} ({tries} tries)") from trouble
            await asyncio.sleep(wait)
            pause, tries = min(2 * pause, LONGEST_PAUSE), tries + 1

    async def complete(self, request: CompletionRequest, policy: RetryPolicy | None = None) -> CompletionResult:
        """Have a request answered."""
        params, parts = request.params, [request]
        if self.one_seed_one_text:
            parts = [request._replace(params=replace(params, n=1, seed=params.seed + i)) for i in range(params.n)]
        bodies = [request_body(self.model, part, ignore_eos=not self.bans_eos) for part in parts]
        replies = await asyncio.gather(*(self.send("/completions", body, policy) for body in bodies))
        try:
            results = [read_reply(reply, body["n"]) for reply, body in zip(replies, bodies, strict=True)]
        except ProtocolError as error:
            raise RainError(f"server {self.url} cannot be used: {error}") from error
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
            raise TransientError(f"no reply within {timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise TransientError(f"connection failed: {error.__cause__ or error}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise TransientError(f"malformed reply: {error}") from error
        if not isinstance(reply, dict):
            raise TransientError("malformed reply: not a JSON object")
        return reply

    def _connected(self) -> AsyncOpenAI:
        """Return the client of the running event loop; connections cannot move between loops."""
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            key = os.environ.get("OPENAI_API_KEY") or "none"
            self._client, self._loop = AsyncOpenAI(api_key=key, base_url=self.url, max_retries=0), loop
        return self._client

    def _classify(self, error: APIStatusError) -> Exception:
        """Return the exception that says what to do about an HTTP error: try again, or stop."""
        status, said = error.status_code, " ".join(error.response.text.split())[:300]
        if status in TRANSIENT or status >= 500:
            return TransientError(f"HTTP {status} {said}".strip(), _seconds(error.response.headers.get("retry-after")))
        if status in (401, 403):
            return RainError(f"server {self.url} refuses the key (HTTP {status}); set OPENAI_API_KEY")
        if status == 404:
            return RainError(f"server {self.url} has no such model or path; check --base-url ({said})")
        return RainError(f"server {self.url} refuses a request (HTTP {status}): {said}")


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0


def _normal(url: str) -> str:
    """Return a base URL that ends in /v1."""
    url = url.strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise RainError(f"--base-url has {url!r}, which is not a URL; write http://HOST:PORT, several with commas")
    return url if url.endswith("/v1") else f"{url}/v1"
