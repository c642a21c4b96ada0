"""The engine for servers that speak OpenAI's ``/v1/completions`` with token ids: vLLM, llama.cpp.

A search stays on one server, where its prefixes are cached. A server that is lost leaves its searches to the others,
and is asked again later.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rain.core.concurrency import cancel_all, gather_or_cancel
from rain.core.errors import RainError
from rain.engines.remote.client import RetryPolicy, ServerClient, Unreachable
from rain.engines.remote.engine import CompletionRequest, CompletionResult, RemoteEngine, greedy_request
from rain.engines.remote.probe import probe
from rain.keys import ENGINE_KEY

LOOK_S = 30.0
"""Seconds in which a lost server must answer a probe."""


class ServerPool:
    """Servers of one model, and which search is on which; session names are one search's up to the first "/"."""

    def __init__(self, servers: Sequence[ServerClient]) -> None:
        self.servers = list(servers)
        self.places: dict[str, ServerClient] = {}
        self._open: Counter[str] = Counter()

    def open(self, name: str) -> None:
        """Count a session, on a server of its choice."""
        self._open[_search(name)] += 1
        self.place(name)

    def close(self, name: str) -> None:
        """Count a session less; forget a search that has no more of them."""
        search = _search(name)
        self._open[search] -= 1
        if not self._open[search]:
            del self._open[search]
            self.places.pop(search, None)

    def place(self, name: str) -> ServerClient | None:
        """Return the server for a session: the same one as before, or one with the fewest open sessions.

        Among these a search prefers servers in an order of its own (rendezvous hashing). None: all are lost.
        """
        search = _search(name)
        known = self.places.get(search)
        if known is None or known.lost:
            load = self.load()
            if not load:
                return None
            least = min(load.values())
            known = min((server for server in load if load[server] == least), key=lambda s: _rank(search, s.url))
            if search in self._open:
                self.places[search] = known
        return known

    def load(self) -> dict[ServerClient, int]:
        """Return the number of open sessions of each server that is not lost."""
        load = {server: 0 for server in self.servers if not server.lost}
        for search, server in self.places.items():
            if server in load:
                load[server] += self._open[search]
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
        self._looking: set[asyncio.Task[None]] = set()

    def opened(self, name: str) -> None:
        """See ``RemoteEngine.opened``."""
        self.pool.open(name)

    def release(self, name: str) -> None:
        """See ``RemoteEngine.release``."""
        self.pool.close(name)

    async def complete(self, request: CompletionRequest, name: str) -> CompletionResult:
        """Send a request to its search's server; if that is lost, to another one; if all are, wait for one."""
        while True:
            self._look_for_lost()
            server = self.pool.place(name) or await self._first_back()
            result = await self._try(server, request)
            if result is not None:
                return result

    async def cache_prefix(self, prefix: Sequence[int]) -> None:
        """Have the prefix computed by all servers."""
        self.check_request(prefix)
        request = greedy_request(prefix, 1, 1)
        await gather_or_cancel(*(self._try(server, request) for server in self.pool.load()))

    async def close(self) -> None:
        """Close all connections."""
        await cancel_all(self._looking)
        await asyncio.gather(*(server.close() for server in self.pool.servers))

    async def _try(self, server: ServerClient, request: CompletionRequest) -> CompletionResult | None:
        """Return a server's answer, None if it is lost while others are left."""
        try:
            result = await server.complete(request)
        except Unreachable:
            server.lost = True
            if not self.pool.load():
                raise
            return None
        server.lost = False
        return result

    async def _first_back(self) -> ServerClient:
        """Wait for the first lost server that answers, as long as a request is tried."""
        policy, end = self.pool.servers[0].policy, time.monotonic() + self.pool.servers[0].policy.retry
        while not (back := list(self.pool.load())):
            if time.monotonic() >= end:
                raise Unreachable(f"no server answers: {', '.join(server.url for server in self.pool.servers)}")
            await asyncio.sleep(policy.pause)
            self._look_for_lost()
        return back[0]

    def _look_for_lost(self) -> None:
        """Probe the lost servers that were not asked for a while, apart from all requests."""
        for server in self.pool.servers:
            now = time.monotonic()
            if server.lost and now - server.asked >= server.policy.again:
                server.asked = now
                task = asyncio.create_task(self._look(server))
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)

    async def _look(self, server: ServerClient) -> None:
        """Use a lost server again if it answers and still has the model."""
        policy = replace(server.policy, reply=min(server.policy.reply, LOOK_S), retry=0.0)
        with suppress(RainError):
            await probe(server, self.tokenizer, server.model, policy)
            server.lost = server.context <= self.context


def open_http(
    base_url: str,
    tokenizer: Any,
    modelname: str,
    eos: tuple[int, ...] = (),
    *,
    vocabulary: int = 0,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    key: str = ENGINE_KEY,
) -> HttpEngine:
    """Return an engine on servers that a probe has found to be fit.

    Args:
        base_url: URLs of servers of the same model, with commas in between.
        tokenizer: the model's.
        modelname: the servers' name of the model; it only matters where a server serves several.
        eos: the model's end ids.
        vocabulary: number of token ids that the model has; the tokenizer's are known anyway.
        policy: with servers that do not answer.
        key: the environment variable with their key.

    Raises:
        RainError: a URL is wrong, a server does not answer or cannot give what RAIN needs.
    """
    servers = [ServerClient(url, policy, vocabulary, key) for url in base_url.split(",") if url.strip()]

    async def probe_all() -> None:
        await asyncio.gather(*(probe(server, tokenizer, modelname) for server in servers))
        await asyncio.gather(*(server.close() for server in servers))

    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop running
        thread.submit(asyncio.run, probe_all()).result()
    return HttpEngine(ServerPool(servers), tokenizer, eos)
