"""The engine for servers that speak OpenAI's ``/v1/completions`` with token ids: vLLM, SGLang, llama.cpp.

A search stays on one server, where its prefixes are cached. A server that is lost leaves its searches to the others.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rain.core.engine import Session
from rain.core.errors import RainError
from rain.engines.remote.client import ServerClient, Unreachable
from rain.engines.remote.engine import CompletionRequest, CompletionResult, RemoteEngine
from rain.engines.remote.probe import probe


class ServerPool:
    """Servers of one model, and which search is on which; session names are one search's up to the first "/"."""

    def __init__(self, servers: Sequence[ServerClient]) -> None:
        self.servers = list(servers)
        self._places: dict[str, ServerClient] = {}
        self._open: Counter[str] = Counter()

    def open(self, name: str) -> None:
        """Count a session, on a server of its choice."""
        self.place(name)
        self._open[_search(name)] += 1

    def close(self, name: str) -> None:
        """Count a session less."""
        self._open[_search(name)] -= 1

    def place(self, name: str) -> ServerClient:
        """Return the server for a session: the same one as before, or one with the fewest open sessions.

        Among these a search prefers servers in an order of its own (rendezvous hashing).

        Raises:
            RainError: all servers are lost.
        """
        search = _search(name)
        known = self._places.get(search)
        if known is None or known.lost:
            load = self.load()
            if not load:
                urls = ", ".join(server.url for server in self.servers)
                raise RainError(f"no server answers any more: {urls}")
            least = min(load.values())
            free = [server for server in load if load[server] == least]
            known = self._places[search] = min(free, key=lambda server: _rank(search, server.url))
        return known

    def load(self) -> dict[ServerClient, int]:
        """Return the number of open sessions of each server that is not lost."""
        load = {server: 0 for server in self.servers if not server.lost}
        for search, count in self._open.items():
            if self._places[search] in load:
                load[self._places[search]] += count
        return load


def _search(name: str) -> str:
    return name.partition("/")[0]


def _rank(search: str, url: str) -> bytes:
    return hashlib.blake2b(f"{search} {url}".encode(errors="replace"), digest_size=8).digest()


class HttpEngine(RemoteEngine):
    """One or several servers that run the same model.

    Args:
        pool: of servers that were probed.
        tokenizer: the model's.
        eos: its end ids.
    """

    def __init__(self, pool: ServerPool, tokenizer: Any, eos: tuple[int, ...] = ()) -> None:
        super().__init__(tokenizer, min(server.context for server in pool.servers), eos)
        self.pool = pool

    def session(self, name: str) -> Session:
        """Return a session that sends everything to one server; ``close`` it so that the server counts as less busy."""
        self.pool.open(name)
        return super().session(name)

    def release(self, name: str) -> None:
        """See ``RemoteEngine.release``."""
        self.pool.close(name)

    async def complete(self, request: CompletionRequest, name: str) -> CompletionResult:
        """Send a request to its search's server; if that is lost, to another one."""
        while True:
            result = await self._try(self.pool.place(name), request)
            if result is not None:
                return result

    async def warm(self, request: CompletionRequest) -> None:
        """Send a request to all servers."""
        await asyncio.gather(*(self._try(server, request) for server in self.pool.load()))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.close() for server in self.pool.servers))

    async def _try(self, server: ServerClient, request: CompletionRequest) -> CompletionResult | None:
        """Return a server's answer, None if it is lost while others are left."""
        try:
            return await server.complete(request)
        except Unreachable:
            server.lost = True
            if not self.pool.load():
                raise
            return None


def open_http(base_url: str, tokenizer: Any, modelname: str, eos: tuple[int, ...] = ()) -> HttpEngine:
    """Return an engine on servers that a probe has found to be fit.

    Args:
        base_url: URLs of servers of the same model, with commas in between.
        tokenizer: the model's.
        modelname: the servers' name of the model; it only matters where a server serves several.
        eos: the model's end ids.

    Raises:
        RainError: a URL is wrong, a server does not answer or cannot give what RAIN needs.
    """
    servers = [ServerClient(url) for url in base_url.split(",") if url.strip()]

    async def probe_all() -> None:
        await asyncio.gather(*(probe(server, tokenizer, modelname) for server in servers))
        await asyncio.gather(*(server.close() for server in servers))

    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop running
        thread.submit(asyncio.run, probe_all()).result()
    return HttpEngine(ServerPool(servers), tokenizer, eos)
