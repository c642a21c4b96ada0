"""``rain serve --engine toy`` as a process of its own, and a toy model that obeys words in the prompt.

Run as a script it is ``rain serve`` with that model: a prompt with SLOW pauses in each rollout, SILENT never answers,
BREAK fails after some rollouts, DEVICE fails as a broken GPU does, DIFFICULT writes emojis and stop strings.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if __name__ != "__main__":
    import pytest

    for package in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
        pytest.importorskip(package)

import httpx

ROOT = Path(__file__).resolve().parents[2]
KEY = "correct-horse-battery"
BEARER = {"authorization": f"Bearer {KEY}"}
SMALL = (
    "--max-simulations 6 --extra-simulations 3 --min-visits 2 --candidates 4 --max-draws 3 --max-new-tokens 32 "
    "--prefetch 0"
).split()


class ServerProcess:
    """A running server; ``log`` has its lines on standard error so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.log, self.url = process, list[str](), ""
        self.logged = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_until_ready(self) -> None:
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+?:\d+", line)
        assert found, (line, self.log)
        self.url = found[0]

    def _read(self) -> None:
        for line in self.process.stderr:
            with self.logged:
                self.log.append(line)
                self.logged.notify_all()

    def wait_for_log(self, text: str, timeout: float = 10) -> str:
        """Return the first line that contains a text."""
        with self.logged:
            assert self.logged.wait_for(lambda: any(text in line for line in self.log), timeout), self.log
            return next(line for line in self.log if text in line)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, **{"timeout": 20, "verify": False, **options})

    def metric(self, name: str, **headers: str) -> float:
        """Return a number; 0 for a label that has not been counted yet."""
        text = httpx.get(f"{self.url}/metrics", headers=headers, verify=False).text
        found = re.search(rf"^{name} (\S+)$", text, flags=re.M)
        assert found or "{" in name, name
        return float(found[1]) if found else 0.0


@contextmanager
def served(
    *flags: object, wait: bool = True, path: object = "", program: Sequence[str] = (__file__,)
) -> Iterator[ServerProcess]:
    """Start a server on a free port; it ends with the block."""
    command = [sys.executable, *program, "serve", "--engine", "toy", *SMALL, "--port", "0", *map(str, flags)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{path}", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=env, cwd=ROOT, **pipes)
    server = ServerProcess(process)
    try:
        if wait:
            server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def asked(question: str, **fields: object) -> dict[str, object]:
    """Return the body of a request."""
    return {"model": "rain/toy", "messages": [{"role": "user", "content": question}], **fields}


def ask(
    client: httpx.Client, question: str = "What now?", headers: dict[str, str] | None = None, **fields: object
) -> httpx.Response:
    return client.post("/v1/chat/completions", json=asked(question, **fields), headers=headers)


def events(text: str) -> list[dict[str, object]]:
    """Return the chunks of a stream, without [DONE]."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", lines[-3:]
    return [json.loads(line) for line in lines[:-1]]


def streamed(response: httpx.Response) -> list[str]:
    """Return the text of each choice of a stream."""
    texts: dict[int, str] = {}
    for choice in (choice for chunk in events(response.text) for choice in chunk["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
    return [texts[index] for index in sorted(texts)]


def code(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error."""
    return response.status_code, response.json()["error"]["code"]


def obedient() -> None:
    """Let the toy model obey words in the prompt, and count its passes."""
    from support.watched import difficult_distribution

    import rain.engines.toy as toy
    from rain.core.engine import EngineStats

    usual, generate = toy.log_distribution, toy.ToySession.generate
    counts = {"passes": 0, "rollouts": 0}

    def distribution(prefix):
        difficult = b"DIFFICULT" in bytes(token for token in prefix if token < toy.EOS)
        return difficult_distribution(prefix) if difficult else usual(prefix)

    async def obey(self, prefix, params):
        counts["passes"] += 1
        text = bytes(token for token in prefix if token < toy.EOS)
        if params.purpose in ("rollout", "baseline"):
            counts["rollouts"] += 1
            if b"SLOW" in text:
                await asyncio.sleep(0.1)
            if b"SILENT" in text:
                while True:
                    counts["passes"] += 1
                    await asyncio.sleep(0.02)
            if b"BREAK" in text and len(prefix) > text.index(b"BREAK") + 40:
                raise LookupError(f"no continuation of {text!r}")
            if b"DEVICE" in text:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return await generate(self, prefix, params)

    toy.log_distribution, toy.ToySession.generate = distribution, obey
    toy.ToyEngine.stats = lambda self: EngineStats(counts["passes"])


if __name__ == "__main__":
    from rain.cli import main

    obedient()
    sys.exit(main())
