"""Load on ``rain serve``: throughput, time to the first commit, memory, clients that leave. Prints tables; ends with 1
if a limit is missed: 5 % of the time outside of the models, memory 5 % from that after the first thousand, 2 s.

    python tests/load/serve.py                               toy model: clients, memory and leavers
    python tests/load/serve.py --modelname smollm2 --clients 1 4 16 --requests 2 --tokens 16 --only clients
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sys
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.toy_server import ServerProcess, asked, served  # noqa: E402

PROGRAM = ("-m", "rain.cli")
MEMORY_EVERY = 1000
MOST_OUTSIDE, MOST_GROWTH, SLOWEST_END = 0.05, 0.05, 2.0


def within(limit: float, value: float, what: str) -> bool:
    """Tell whether a limit is kept; print it if not."""
    if value > limit:
        print(f"MISSED: {what} {value:.3g}, the limit is {limit:g}")
    return value <= limit


def body(number: int, tokens: int, model: str = "rain/toy", word: str = "Question") -> dict[str, object]:
    return asked(f"{word} {number}: what should I do about it?", model=model, max_tokens=tokens, stream=True)


async def ask(client: httpx.AsyncClient, request: dict[str, object]) -> float:
    """Return the time to the first commit (seconds)."""
    started, first = time.monotonic(), 0.0
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            assert '"error"' not in line, line
            if not first and '"committed"' in line:
                first = time.monotonic() - started
    return first


def connect(server: ServerProcess, clients: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=clients + 1, max_keepalive_connections=clients + 1)
    return httpx.AsyncClient(base_url=server.url, timeout=3600, limits=limits, verify=False)


def model_seconds(server: ServerProcess) -> float:
    """Return the time in the language model and in the sentence encoder so far, which take turns on a CPU (s)."""
    return server.metric("rain_engine_model_seconds") + server.metric("rain_embedding_seconds")


async def clients_row(server: ServerProcess, model: str, clients: int, requests: int, tokens: int) -> bool:
    """Measure so many clients of which each asks so often; tell whether the limit is kept."""
    before = model_seconds(server)
    async with connect(server, clients) as client:

        async def one(number: int) -> list[float]:
            return [await ask(client, body(number * requests + i, tokens, model)) for i in range(requests)]

        started = time.monotonic()
        found = sorted(sum(await asyncio.gather(*map(one, range(clients))), []))
        seconds = time.monotonic() - started
    computed = model_seconds(server) - before
    share = 1 - computed / seconds if computed else 0.0
    outside = f"{share:.1%}" if computed else "no model"
    middle, late = found[len(found) // 2], found[int(len(found) * 0.95)]
    print(f"| {model} | {clients} | {len(found) / seconds:.2f} | {middle:.2f} | {late:.2f} | {outside} |", flush=True)
    return within(MOST_OUTSIDE, share, "share of time outside of the models")


def resident(server: ServerProcess) -> float:
    """Return the memory of the server (MiB)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def memory_rows(server: ServerProcess, total: int) -> bool:
    """Send short requests, a tenth of which leave early; print the memory and tell whether it stays the same."""
    found = []
    async with connect(server, 16) as client:

        async def one(number: int) -> None:
            request = asyncio.create_task(ask(client, body(number, 1 + number % 3)))
            if number % 10 == 0:
                await asyncio.sleep(random.random() / 50)
                request.cancel()
            await asyncio.gather(request, return_exceptions=number % 10 == 0)

        for start in range(0, total, MEMORY_EVERY):
            for group in range(start, start + MEMORY_EVERY, 16):
                await asyncio.gather(*map(one, range(group, min(group + 16, start + MEMORY_EVERY))))
            found.append(resident(server))
            print(f"| {start + MEMORY_EVERY} | {found[-1]:.1f} |", flush=True)
    return within(MOST_GROWTH, max(abs(each / found[0] - 1) for each in found), "change of memory")


def searches(server: ServerProcess) -> float:
    return server.metric("rain_running") + server.metric("rain_waiting")


async def leavers(server: ServerProcess, clients: int) -> bool:
    """Let half of the clients leave, whose searches would never end; tell whether these end soon, and no other."""
    async with connect(server, clients) as client:
        bodies = (body(i, 8, word=("SLOW", "SILENT")[i % 2]) for i in range(clients))
        tasks = [asyncio.create_task(ask(client, each)) for each in bodies]
        while await asyncio.to_thread(searches, server) < clients - sum(task.done() for task in tasks):
            await asyncio.sleep(0.02)
        for task in tasks[1::2]:
            task.cancel()
        left = time.monotonic()
        await asyncio.gather(*tasks[1::2], return_exceptions=True)
        closed = time.monotonic()
        while await asyncio.to_thread(searches, server) > sum(not task.done() for task in tasks[::2]):
            await asyncio.sleep(0.02)
        took = time.monotonic() - closed
        print(f"half of {clients} clients left within {closed - left:.2f} s: no search of theirs {took:.2f} s later")
        await asyncio.gather(*tasks[::2])
        rest = searches(server)
        print(f"the other half was answered: {rest:.0f} searches are left")
        return within(SLOWEST_END, took, "seconds until searches end") & within(0, rest, "searches left")


async def main() -> int:
    """Measure; return 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modelname", default="")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--requests", type=int, default=4, help="of each client")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--memory", type=int, default=10_000, help="requests of the memory test")
    parser.add_argument("--only", choices=("clients", "memory", "leavers"))
    args = parser.parse_args()
    engine = ["--engine", "hf", "--modelname", args.modelname] if args.modelname else []
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    kept = []
    with served("--max-queue", 1000, *engine, program=PROGRAM) as server:
        if args.only in (None, "clients"):
            print("| model | clients | requests/s | first commit p50 (s) | p95 (s) | outside of the models |")
            print("|---|---|---|---|---|---|")
            for clients in args.clients:
                model = f"rain/{args.modelname or 'toy'}"
                kept.append(await clients_row(server, model, clients, args.requests, args.tokens))
        if args.only in (None, "memory"):
            print("\n| requests | memory (MiB) |\n|---|---|")
            kept.append(await memory_rows(server, args.memory))
    if args.only in (None, "leavers"):
        with served("--max-queue", 1000) as server:  # the toy model, which obeys SLOW and SILENT
            kept.append(await leavers(server, 200))
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
