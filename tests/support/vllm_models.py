"""vLLM for tests: servers on 127.0.0.1, and randomness that every engine shares."""

from __future__ import annotations

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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from rain.core.engine import Continuation, SamplingParams, Session, Usage
from rain.core.errors import RainError

START_S = 900


@contextmanager
def http_server(log: Path, *command: str, **environment: str) -> Iterator[str]:
    """Run a program that serves OpenAI's API on a free port, and return its base URL once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        options = {"stdout": file, "stderr": subprocess.STDOUT, "env": {**os.environ, **environment}}
        server = subprocess.Popen(words, **options, start_new_session=True)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(60)


def vllm_server(model: Path, log: Path, *options: str) -> AbstractContextManager[str]:
    """Run vLLM's server."""
    command = ["vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32"]
    command += ["--generation-config", "vllm", "--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"]
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return http_server(log, *command, "--enable-prompt-tokens-details", *options, **environment)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
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
