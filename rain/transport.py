"""HTTP as clients of servers use it: a deadline for the whole reply, a limit on its size, and no redirects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

MAX_REPLY_BYTES = 16 << 20


class ReplyTooLarge(Exception):
    """A server sent more than MAX_REPLY_BYTES."""


def http_client(
    on_request: Callable[[Any], None] | None = None, on_reply: Callable[[Any], None] | None = None
) -> Any:
    """Return the http_client of an ``openai.AsyncOpenAI``, whose timeout limits each try as a whole, not each read.

    A redirect, which could lead prompts elsewhere, is returned as the reply. More than MAX_REPLY_BYTES, unpacked,
    raise ReplyTooLarge, which versions of the openai package wrap in an APIConnectionError or leave alone.

    Args:
        on_request: is called before each request is sent.
        on_reply: is called with each whole reply, and may change its status.
    """
    import openai

    base: Any = openai.DefaultAsyncHttpxClient

    class Client(base):  # type: ignore[misc]
        async def send(self, request: Any, **options: Any) -> Any:
            limit = request.extensions.get("timeout", {}).get("read")
            try:
                return await asyncio.wait_for(self._whole(request, options), limit)
            except asyncio.TimeoutError as error:
                http = import_module(type(request).__module__.partition(".")[0])  # httpx, or its successor
                raise http.ReadTimeout(f"no whole reply within {limit:g} s", request=request) from error

        async def _whole(self, request: Any, options: dict[str, Any]) -> Any:
            if on_request:
                on_request(request)
            response = await super().send(request, **{**options, "stream": True, "follow_redirects": False})
            body = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_REPLY_BYTES:
                        raise ReplyTooLarge(f"the reply is larger than {MAX_REPLY_BYTES:,} bytes")
            finally:
                await response.aclose()
            decoded = ("content-encoding", "content-length", "transfer-encoding")
            headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in decoded]
            whole = type(response)(response.status_code, headers=headers, content=bytes(body), request=request)
            if on_reply:
                on_reply(whole)
            return whole

    return Client()
