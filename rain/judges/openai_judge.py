"""openai:MODEL, a judge behind OpenAI's chat API or any server that speaks it."""

from __future__ import annotations

import os
from typing import Any, cast

from rain.core.errors import RainError
from rain.judges.base import Judge, JudgeConfig, NoReply, Query, Verdict
from rain.judges.prompts import load_prompts, messages, read_reply
from rain.keys import JUDGE_KEY, OPENAI, is_loopback, key_for
from rain.terminal import one_line
from rain.transport import ReplyTooLarge, http_client

HIDDEN_REASONING_TOKENS = 2048
"""Reply length for models that accept only max_completion_tokens, whose hidden reasoning counts as reply."""


class OpenAIJudge(Judge):
    """Puts the prompts of rain.judges.prompts to a chat model at temperature 0.

    The key is RAIN_JUDGE_API_KEY, or for OpenAI's own address OPENAI_API_KEY; a server on this machine needs none. The
    client retries 408, 409, 429, 5xx, timeouts, broken connections and malformed replies, after a pause that doubles or
    that the server's Retry-After sets.
    """

    def __init__(self, model: str, config: JudgeConfig) -> None:
        import openai

        super().__init__(f"openai:{model}")
        self.concurrency, self.max_calls = config.judge_concurrency, config.max_calls
        self.versions = {criterion: prompt.version for criterion, prompt in load_prompts().items()}
        self._config, self._tries = config, f"{config.judge_retries + 1} tries"
        base_url = config.judge_base_url or os.environ.get("OPENAI_BASE_URL") or f"{OPENAI}/v1"
        key = key_for(base_url, JUDGE_KEY) or ("none" if is_loopback(base_url) else "")
        if not key:
            own = f"{JUDGE_KEY}, or for OpenAI itself OPENAI_API_KEY"
            raise RainError(f"judge {self.name} needs a key: set {own} (any text if the server needs none)")
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=config.judge_retries,
            timeout=config.judge_timeout,
            http_client=http_client(self._before_request, self._after_reply),
        )
        for name in ("organization", "project", "admin_api_key"):  # those of the environment belong to another key
            if hasattr(self._client, name):
                setattr(self._client, name, None)
        self._params: dict[str, Any] = {"model": model, "temperature": 0.0, "max_tokens": config.judge_max_tokens}

    async def decide(self, query: Query) -> Verdict:
        """Ask, and retry; see Judge.decide."""
        reply = await self._reply(query)
        return Verdict(read_reply(reply, query.criterion), reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _before_request(self, request: Any) -> None:
        """Count every request that is sent, retries included."""
        self.count_call()
        self.retries += request.headers.get("x-stainless-retry-count", "0") != "0"

    def _after_reply(self, response: Any) -> None:
        """Tell the client what to retry: a malformed reply, like that of a bad gateway, but not an exhausted quota."""
        if response.is_success and not _is_completion(response):
            response.status_code = 502
        if b"insufficient_quota" in response.content:
            response.headers["x-should-retry"] = "false"

    async def _reply(self, query: Query) -> str:
        """Return the reply; asks again for each parameter that the model turns out not to accept."""
        import openai

        asked = cast(Any, messages(query))
        while True:
            sent = dict(self._params)
            try:
                completion = await self._client.chat.completions.create(messages=asked, **sent)
                return completion.choices[0].message.content or ""
            except openai.APIStatusError as error:
                if not self._adapt(error, sent):
                    raise self._explain(error) from error
            except openai.APITimeoutError as error:
                raise NoReply(f"no reply within {self._config.judge_timeout:g} s ({self._tries})") from error
            except (openai.APIConnectionError, ReplyTooLarge) as error:
                cause = error.__cause__ or error
                if isinstance(cause, RainError):  # raised by a hook, and wrapped by older clients
                    raise cause from error
                if isinstance(cause, ReplyTooLarge):
                    raise NoReply(str(cause), refused=True) from error
                raise NoReply(f"connection failed: {one_line(str(cause))} ({self._tries})") from error

    def _adapt(self, error: Any, sent: dict[str, Any]) -> bool:
        """Drop or rename a parameter that the model refuses (reasoning models); tell whether that is worth a retry."""
        if error.status_code != 400:
            return False
        refused = [name for name in ("max_tokens", "temperature") if name in sent and f"'{name}'" in str(error)]
        for name in refused:
            self._params.pop(name, None)
            if name == "max_tokens":
                self._params["max_completion_tokens"] = max(HIDDEN_REASONING_TOKENS, self._config.judge_max_tokens)
        return bool(refused)

    def _explain(self, error: Any) -> Exception:
        """Return the exception for an HTTP error that outlasted all retries: skip this query, or stop."""
        status, said = error.status_code, one_line(" ".join(error.response.text.split())[:200])
        if error.code == "insufficient_quota":
            return RainError(f"judge {self.name}: the account has no quota left; its verdicts are kept")
        if status in (401, 403):
            return RainError(f"judge {self.name}: the server refused the key (HTTP {status}); check {JUDGE_KEY}")
        if 300 <= status < 400:
            return RainError(f"judge {self.name}: it redirects (HTTP {status}); name the final --judge-base-url")
        if status == 404:
            return RainError(f"judge {self.name}: no such model or path there; check --judge-base-url ({said})")
        if status in (408, 409, 429) or status >= 500:
            return NoReply(f"HTTP {status} ({self._tries}): {said}")
        return NoReply(f"HTTP {status}: {said}", refused=True)


def _is_completion(response: Any) -> bool:
    try:
        return "content" in response.json()["choices"][0]["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
