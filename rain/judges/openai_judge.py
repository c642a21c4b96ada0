"""openai:MODEL, a judge behind OpenAI's chat API or any server that speaks it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
from typing import Any, cast
from urllib.parse import urlsplit

from rain.core.errors import RainError
from rain.judges.base import Judge, JudgeSettings, Query, Unanswered, Verdict
from rain.judges.prompts import PROMPTS, messages, read_word

LONGEST_WAIT = 60.0
"""Seconds: the cap on one pause between tries."""

HIDDEN_REASONING_TOKENS = 2048
"""Reply length for models that take only max_completion_tokens, whose unseen reasoning counts as reply."""


class OpenAIJudge(Judge):
    """Puts the prompts of rain.judges.prompts to a chat model at temperature 0.

    The key comes from OPENAI_API_KEY; a server on this machine needs none. 408, 409, 429, 5xx, timeouts, cut
    connections and malformed replies are tried again after a pause that doubles, or what the server's Retry-After says.
    """

    def __init__(self, model: str, settings: JudgeSettings) -> None:
        from openai import AsyncOpenAI

        super().__init__(f"openai:{model}")
        self.concurrency = settings.judge_concurrency
        self._settings = settings
        base_url = settings.judge_base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = os.environ.get("OPENAI_API_KEY") or ("none" if is_loopback(base_url) else "")
        if not key:
            raise RainError(
                f"judge {self.name} needs a key: set OPENAI_API_KEY (any text if the server wants none)"
            )
        self._client = AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=settings.judge_timeout)
        self._params: dict[str, Any] = {"model": model, "temperature": 0.0, "max_tokens": settings.judge_max_tokens}

    def version(self, ask: str) -> str | None:
        """Return the version of the chat prompt for `ask`."""
        return PROMPTS[ask].version if ask in PROMPTS else None

    async def decide(self, query: Query) -> Verdict:
        """Ask, at most 1 + retries times; see Judge.decide."""
        reply = await self._reply(query)
        return Verdict(read_word(reply, PROMPTS[query.ask].words), reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _reply(self, query: Query) -> str:
        spread = random.Random(f"{query.record} {query.answer} {query.ask}")
        tries = 0
        while True:
            try:
                return await self._request(query)
            except _Retry as trouble:
                if tries == self._settings.judge_retries:
                    raise Unanswered(f"{trouble} ({tries + 1} tries)") from trouble
                pause = self._settings.judge_backoff * 2**tries * (0.75 + spread.random() / 2)
                await asyncio.sleep(min(LONGEST_WAIT, max(pause, trouble.after)))
                tries += 1
                self.retries += 1

    async def _request(self, query: Query) -> str:
        """Make one request, and once more for each parameter that the model turns out not to take."""
        import openai

        asked = cast(Any, messages(query))
        while True:
            sent = dict(self._params)
            self._spend()
            try:
                completion = await self._client.chat.completions.create(messages=asked, **sent)
                return str(completion.choices[0].message.content or "")
            except openai.APIStatusError as error:
                if not self._adapt(error, sent):
                    raise self._sort(error) from error
            except openai.APITimeoutError as error:
                raise _Retry(f"no reply within {self._settings.judge_timeout:g} s") from error
            except openai.APIConnectionError as error:
                raise _Retry(f"connection failed: {error.__cause__ or error}") from error
            except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as error:
                raise _Retry(f"malformed reply: {error}") from error

    def _spend(self) -> None:
        if self._settings.max_calls and self.calls >= self._settings.max_calls:
            raise RainError(
                f"judge {self.name} reached --max-calls {self._settings.max_calls}; what it judged is kept, and the "
                "same command goes on from there"
            )
        self.calls += 1

    def _adapt(self, error: Any, sent: dict[str, Any]) -> bool:
        """Drop or rename a parameter that the model refuses (reasoning models); say whether that is worth a new try."""
        if error.status_code != 400:
            return False
        text = str(error)
        refused = [name for name in ("max_tokens", "temperature") if name in sent and f"'{name}'" in text]
        for name in refused:
            self._params.pop(name, None)
            if name == "max_tokens":
                self._params["max_completion_tokens"] = max(HIDDEN_REASONING_TOKENS, self._settings.judge_max_tokens)
        return bool(refused)

    def _sort(self, error: Any) -> Exception:
        """Return the exception that says what to do about an HTTP error: try again, skip this query, or stop."""
        status, said = error.status_code, " ".join(error.response.text.split())[:200]
        if error.code == "insufficient_quota":
            return RainError(f"judge {self.name}: the account has no quota left; what was judged is kept")
        if status in (408, 409, 429) or status >= 500:
            return _Retry(f"HTTP {status}", _seconds(error.response.headers.get("retry-after")))
        if status in (401, 403):
            return RainError(f"judge {self.name}: the server refused the key (HTTP {status}); check OPENAI_API_KEY")
        if status == 404:
            return RainError(f"judge {self.name}: no such model or path there; check --judge-base-url ({said})")
        return Unanswered(f"HTTP {status}: {said}", refused=True)


class _Retry(Exception):
    """A passing trouble; `after` is the server's wish for a pause, seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0


def is_loopback(url: str | None) -> bool:
    """Say whether a URL names this machine."""
    host = urlsplit(url or "").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
