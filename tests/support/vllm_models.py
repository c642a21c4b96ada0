"""vLLM for tests: servers on 127.0.0.1, and randomness that every engine shares."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rain.core.engine import Continuation, SamplingParams, Session, Usage
from rain.core.errors import RainError

START_S = 900


@contextmanager
def vllm_server(model: Path, log: Path, *options: str) -> Iterator[str]:
    """Run vLLM's server and return its base URL once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm", "--enforce-eager"]
    command += ["--block-size", "32", "--enable-prompt-tokens-details", "--no-enable-chunked-prefill", *options]
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}/v1/models", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(60)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                json.load(reply)
                return
        except OSError:
            time.sleep(0.5)
    raise RainError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Return whether a condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class SharedRandomness(Session):
    """Draws out of the next-token log-probabilities of a session by random numbers of its own.

    Two engines with the same log-probabilities then give the same texts, whatever generators they have themselves.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.usage = session, Usage()

    async def generate(self, prefix: Sequence[int], params: SamplingParams) -> list[Continuation]:
        found = await self.session.generate(prefix, replace(params, n=1)) if params.greedy_first else []
        for i in range(len(found), params.n):
            stream, tokens, logprobs = random.Random(f"{params.seed}/{i}"), list[int](), list[float]()
            while len(tokens) < params.max_tokens and not (tokens and tokens[-1] in params.stop.token_ids):
                top = await self.session.next_logprobs((*prefix, *tokens), top=params.top_k or 20)
                weights = [math.exp(logprob / params.temperature) for logprob in top.values()]
                tokens += stream.choices(list(top), weights)
                logprobs.append(math.log(weights[list(top).index(tokens[-1])] / sum(weights)))
            found.append(Continuation(tuple(tokens), tuple(logprobs), "length"))
        return found

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        return await self.session.next_logprobs(prefix, top=top, ids=ids)
