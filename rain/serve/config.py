"""What a server is: its settings, and what they allow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rain.core.errors import RainError
from rain.core.fields import setting, validate
from rain.keys import is_loopback_host


@dataclass(frozen=True)
class ServeConfig:
    """Settings of ``rain serve``; none of them changes an answer but budgets."""

    host: str = setting("127.0.0.1", "address to listen on; any but loopback needs --api-key-file")
    port: int = setting(8000, "port (0: any that is free)", low=0, high=65535)
    concurrency: int = setting(16, "maximum searches at once", low=1, high=10**4)
    max_queue: int = setting(64, "maximum searches that wait; more are refused with 429", low=0, high=10**6)
    api_key_file: str = setting("", "who may ask: lines of NAME KEY or NAME sha256:HEX")
    max_budget: str = setting("", "largest budget that may be asked for; requests beyond it are refused with 400")
    keep_alive: float = setting(15.0, "a stream that is silent for so long gets a comment (s)", low=0.05, high=3600)
    drain: float = setting(30.0, "after SIGTERM, answers in progress may take so long (seconds)", low=0, high=86400)
    allow_host: tuple[str, ...] = setting((), "further names in the Host header that requests may use")
    cors: tuple[str, ...] = setting((), "origins whose pages may use the server, such as https://chat.example")
    page: bool = setting(False, "serve the page at / on any address (default: on loopback only)")
    strict: bool = setting(False, "refuse fields that have no effect, such as temperature, instead of naming them")
    log_text: bool = setting(False, "write prompts and answers to the log")

    def __post_init__(self) -> None:
        validate(self)
        if "*" in self.cors:
            raise RainError("--cors takes origins such as https://chat.example, not *: any page could use the server")
        for origin in self.cors:
            if not re.fullmatch(r"https?://[^/]+", origin):
                raise RainError(f"--cors is {origin!r}; it must be an origin such as https://chat.example")
        if not self.is_loopback and not self.api_key_file:
            raise RainError(f"--host is {self.host}, which others can reach: give --api-key-file, too")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback_host(self.host)

    @property
    def has_page(self) -> bool:
        """Whether the page is served."""
        return self.page or self.is_loopback

    @property
    def hosts(self) -> frozenset[str]:
        """Names that the Host header may have; empty: any (every request has to bring a key then)."""
        own = {"127.0.0.1", "localhost", "::1", self.host} if self.is_loopback else set()
        return frozenset(name.casefold() for name in (*own, *self.allow_host))
