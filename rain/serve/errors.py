"""Refusals and failures, in the shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRIED = (408, 429, 503)
"""Statuses after which another try may succeed; everything else would end the same way again."""


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: one sentence for the user.
        code: for programs.
        param: the field that is wrong.
        headers: further ones.
        extra: further fields of the error.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.extra = status, message, code, param, extra
        self.headers = {"x-should-retry": "true" if status in RETRIED else "false", **(headers or {})}

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code, **self.extra}}


def unavailable(reason: str) -> ApiError:
    """Return the error of a server that does not answer now."""
    return ApiError(503, reason, "unavailable", headers={"Retry-After": "5"})
