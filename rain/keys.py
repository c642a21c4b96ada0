"""Keys of servers: from environment variables alone, and each only for the address that it is meant for."""

from __future__ import annotations

import ipaddress
import os
import sys
from functools import cache
from urllib.parse import SplitResult, urlsplit

from rain.core.errors import RainError
from rain.terminal import printable

OPENAI = "https://api.openai.com"

ENGINE_KEY, EVALUATOR_KEY, JUDGE_KEY = "RAIN_API_KEY", "RAIN_EVALUATOR_API_KEY", "RAIN_JUDGE_API_KEY"
"""Environment variables with the keys of the servers that write, that are asked during a search, and that judge."""


def key_for(base_url: str, own_variable: str) -> str | None:
    """Return the key for a server, None if there is none.

    OPENAI_API_KEY is for OpenAI's address, and for the one that OPENAI_BASE_URL names. A key that leaves this machine
    over http:// is announced once, on standard error.

    Args:
        base_url: of the server; "" is the one that OPENAI_BASE_URL names, or else OpenAI's.
        own_variable: the environment variable whose key is for this server, such as RAIN_JUDGE_API_KEY.

    Raises:
        RainError: an address is not a URL.
    """
    pointed = os.environ.get("OPENAI_BASE_URL") or OPENAI
    url, key = base_url or pointed, os.environ.get(own_variable)
    if not key and origin(url) in (origin(OPENAI), origin(pointed)):
        own_variable, key = "OPENAI_API_KEY", os.environ.get("OPENAI_API_KEY")
    if key and _split(url).scheme == "http" and not is_loopback(url):
        _warn_plain(own_variable, origin(url))
    return key or None


def origin(url: str) -> str:
    """Return scheme, host and port of a URL, without the credentials that it may contain."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".casefold()


def is_loopback(url: str) -> bool:
    """Tell whether a URL names this machine."""
    return is_loopback_host(_split(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Tell whether a name or an address is that of this machine, which no other can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise RainError(f"{url!r} is not a URL ({error}); write http://HOST:PORT/v1") from error


@cache
def _warn_plain(variable: str, where: str) -> None:
    text = f"the key in {variable} goes unencrypted to {where}; use https:// or a tunnel to this machine"
    print(f"rain: warning: {printable(text)}", file=sys.stderr)
