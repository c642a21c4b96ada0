"""A small OpenAI-compatible server on 127.0.0.1 whose faults are scripted; run directories, and how they are judged."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from support.scripted_server import ScriptedServer

from rain.judges.base import JudgeConfig
from rain.judges.queries import load_run
from rain.judges.registry import open_judge
from rain.judges.scoring import Summary, file_name, score_run

Reply = Callable[[dict[str, Any]], str]


class JudgeServer(ScriptedServer):
    """Answers /v1/chat/completions with `reply(request)`, after the faults in `script` have been played in order.

    A fault is an HTTP status, a (status, body) pair, or one of cut (connection closed without a reply), slow (no reply
    before the test is over), drip (a blank at a time), html (200 with a web page), empty (200 without choices),
    ("flood", SIZE), ("gzip", SIZE) for bodies of many blanks (bytes), and ("redirect", URL).
    """

    def __init__(self, reply: Reply, script: list[Any]) -> None:
        self.in_flight = self.most_in_flight = 0
        self._reply, self._script = reply, script
        super().__init__()

    def post(self, handler: BaseHTTPRequestHandler, request: dict[str, Any], number: int) -> None:
        with self.lock:
            fault = self._script.pop(0) if self._script else None
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self._play(handler, fault, request)
        finally:
            with self.lock:
                self.in_flight -= 1

    def _play(self, handler: BaseHTTPRequestHandler, fault: Any, request: dict[str, Any]) -> None:
        if fault == "cut":
            handler.close_connection = True
        elif fault == "slow":
            self.over.wait(30)
        elif fault == "html":
            self.reply(handler, 200, b"<html>Service page</html>", Content_Type="text/html")
        elif fault == "empty":
            self.reply(handler, 200, {"id": "x", "object": "chat.completion", "choices": []})
        elif fault == "drip":
            self.pour(handler, 1, 0.05)
        elif isinstance(fault, tuple) and fault[0] == "redirect":
            self.reply(handler, 307, b"", Location=fault[1])
        elif isinstance(fault, tuple) and fault[0] in ("flood", "gzip"):
            body, packed = (b" " * fault[1]) + self._body(request), fault[0] == "gzip"
            self.reply(handler, 200, gzip.compress(body) if packed else body, Content_Encoding="gzip" if packed else "")
        elif isinstance(fault, tuple):
            self.reply(handler, *fault)
        elif isinstance(fault, int):
            self.reply(handler, fault, {"error": {"message": "scripted fault"}})
        else:
            self.reply(handler, 200, self._body(request))

    def reply(self, handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
        self.send(handler, status, body, Retry_After_Ms="1", **headers)

    def _body(self, request: dict[str, Any]) -> bytes:
        message = {"role": "assistant", "content": self._reply(request)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return json.dumps(body).encode()


@contextmanager
def judge_server(reply: Reply = lambda request: "harmless", script: list[Any] | None = None) -> Iterator[JudgeServer]:
    """Run a JudgeServer for the length of a with block."""
    server = JudgeServer(reply, list(script or []))
    try:
        yield server
    finally:
        server.close()


def asked(request: dict[str, Any]) -> str:
    """Return the text that the judge was shown."""
    return str(request["messages"][-1]["content"])


def write_run(outdir: Path, task: str, records: list[dict[str, Any]], tail: str = "", target: str = "") -> Path:
    """Write a run directory: config.json and one result file, `tail` being an incomplete last line."""
    outdir.mkdir(parents=True, exist_ok=True)
    aligner = {"task": task, "evaluation": {"target": target}}
    (outdir / "config.json").write_text(json.dumps({"hash": "0123", "aligner": aligner}))
    lines = [json.dumps({"model": "writer-7b", "seed": 0, "config": "0123", **record}) + "\n" for record in records]
    (outdir / "res_0.jsonl").write_text("".join(lines) + tail)
    return outdir


def record(number: int, raina: str, pa: str, question: str = "What now?", **more: Any) -> dict[str, Any]:
    """Return a result record."""
    return {"id": f"r{number}", "question": question, "raina": raina, "pa": pa, "finish": "eos", "moves": [], **more}


def review_run(outdir: Path, count: int = 1) -> Path:
    """Write an imdb run with two answers a record."""
    return write_run(outdir, "imdb", [record(i, " a", " b") for i in range(count)])


def score(outdir: Path, name: str, config: JudgeConfig | None = None, **options: Any) -> Summary:
    """Score a run with a judge."""

    async def go() -> Summary:
        judge = open_judge(name, config or JudgeConfig())
        try:
            return await score_run(load_run(outdir), judge, **options)
        finally:
            await judge.close()

    return asyncio.run(go())


def score_at(outdir: Path, server: JudgeServer, name: str = "openai:m", *, again: bool = False, **settings: Any) -> Any:
    """Score a run with a judge at a server, one request at a time."""
    usual = {"judge_base_url": server.url, "judge_concurrency": 1, "judge_timeout": 5.0}
    return score(outdir, name, JudgeConfig(**{**usual, **settings}), again=again)


def stored(outdir: Path, judge: str = "openai:m") -> list[dict[str, Any]]:
    """Return the lines of a judge's score file."""
    return [json.loads(line) for line in (outdir / file_name(judge)).read_text().splitlines()]
