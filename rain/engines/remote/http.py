"""The engine for servers that speak OpenAI's ``/v1/completions`` with token ids: vLLM, SGLang, llama.cpp.

A search stays on one server, where its prefixes are cached. A server that is lost leaves its searches to the others.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rain.core.errors import RainError
from rain.engines.remote.client import Server, Unreachable
from rain.engines.remote.engine import Answer, Ask, ServedEngine
from rain.engines.remote.probe import probe


class Fleet:
    """Servers of one model, and which search is on which."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)
        self._places: dict[str, Server] = {}

    def place(self, name: str) -> Server:
        """Return the server for a name: the same one as before, or one with the fewest open searches.

        Among these a name prefers servers in an order of its own (rendezvous hashing).

        Raises:
            RainError: all servers are lost.
        """
        known = self._places.get(name)
        if known is None or known.lost:
            alive = [server for server in self.servers if not server.lost]
            if not alive:
                raise RainError(f"no server answers any more: {', '.join(server.url for server in self.servers)}")
            least = min(server.open for server in alive)
            free = [server for server in alive if server.open == least]
            known = self._places[name] = min(free, key=lambda server: _rank(name, server.url))
        return known


def _rank(name: str, url: str) -> bytes:
    return hashlib.blake2b(f"{name} {url}".encode(errors="replace"), digest_size=8).digest()


class HttpEngine(ServedEngine):
    """One or several servers that run the same model.

    Args:
        fleet: the servers, probed.
        tokenizer: the model's.
        name: of the search that this is the view of; None for the engine itself.
    """

    def __init__(self, fleet: Fleet, tokenizer: Any, name: str | None = None) -> None:
        super().__init__(tokenizer, min(server.context for server in fleet.servers))
        self.fleet, self._name, self._closed = fleet, name, False
        self._server = fleet.place(name or "")
        self._server.open += name is not None

    def session(self, name: str) -> HttpEngine:
        """Return a view that sends everything to one server; ``close`` it so that the server counts as less busy."""
        return HttpEngine(self.fleet, self.tokenizer, name)

    async def close(self) -> None:
        """Leave the server (a view), or close all connections (the engine itself)."""
        if self._name is None:
            await asyncio.gather(*(server.close() for server in self.fleet.servers))
        elif not self._closed:
            self._server.open -= 1
            self._closed = True

    async def _complete(self, ask: Ask) -> Answer:
        """Ask this search's server; if that is lost, move to another one."""
        answer = None
        while answer is None:
            server = self._server
            answer = await self._ask(server, ask)
            if answer is None and self._server is server:
                self._move()
        return answer

    async def _warm(self, ask: Ask) -> None:
        alive = [server for server in self.fleet.servers if not server.lost]
        await asyncio.gather(*(self._ask(server, ask) for server in alive))

    async def _ask(self, server: Server, ask: Ask) -> Answer | None:
        """Return a server's answer, None if it is lost while others are left."""
        try:
            return await server.complete(ask)
        except Unreachable:
            server.lost = True
            if all(other.lost for other in self.fleet.servers):
                raise
            return None

    def _move(self) -> None:
        counted = self._name is not None and not self._closed
        self._server.open -= counted
        self._server = self.fleet.place(self._name or "")
        self._server.open += counted


def open_http(base_url: str, tokenizer: Any, modelname: str) -> HttpEngine:
    """Return an engine on servers that a probe has found to be fit.

    Args:
        base_url: URLs of servers of the same model, with commas between.
        tokenizer: the model's.
        modelname: the servers' name of the model; it only matters where a server serves several.

    Raises:
        RainError: a URL is missing or wrong, a server does not answer or cannot give what RAIN needs.
    """
    servers = [Server(url) for url in base_url.split(",") if url.strip()]
    if not servers:
        raise RainError("--engine http needs --base-url URL, such as http://127.0.0.1:8000/v1")

    async def probe_all() -> None:
        await asyncio.gather(*(probe(server, tokenizer, modelname) for server in servers))
        await asyncio.gather(*(server.close() for server in servers))

    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop running
        thread.submit(asyncio.run, probe_all()).result()
    return HttpEngine(Fleet(servers), tokenizer)
