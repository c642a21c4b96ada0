"""A small server on 127.0.0.1 with vLLM's completions protocol: its model is a formula, its faults are set by tests."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from support.scripted_server import ScriptedServer

from rain.engines.remote.client import RetryPolicy
from rain.engines.remote.http import HttpEngine, open_http
from rain.engines.toy import EOS, ToyTokenizer, log_distribution

QUICK = RetryPolicy(reply=5.0, retry=5.0, pause=0.01)
Fault = Callable[[int], str]


def no_fault(number: int) -> str:
    return ""


@dataclass(frozen=True)
class Ways:
    """How a server differs from vLLM.

    Attributes:
        limit: most log-probabilities for a token; more are refused ("refuse"), or cut off silently ("cut").
        over: what happens above the limit.
        ids: how token ids are given: "both", "prefixed" (token_id:N), "texts" (not at all) or "llamacpp".
        one_seed: all samples of a request are the same.
        single: n is ignored.
        logprobs: whether there are any.
        shift: how far the bytes of the server's own tokenizer are from those of ``ToyTokenizer``.
    """

    limit: int = 1000
    over: str = "refuse"
    ids: str = "both"
    one_seed: bool = False
    single: bool = False
    logprobs: bool = True
    shift: int = 0


class CompletionsServer(ScriptedServer):
    """Serves the toy model; ``fault(number of the request)`` says what to do instead.

    Faults are "500", "429" (any HTTP status), "cut", "hang", "drip" (a byte now and then) and "flood" (300 MiB).

    Attributes:
        retry_after: the header that comes with an HTTP status.
        tamper: changes replies; what it returns is sent, bytes as they are.
        listed: how often it was asked for its models.
    """

    def __init__(self, ways: Ways = Ways(), fault: Fault = no_fault, port: int = 0, context: int = 257) -> None:
        self.ways, self.fault, self.context = ways, fault, context
        self.retry_after = self.location = ""
        self.tamper: Callable[[dict[str, Any]], Any] = lambda reply: reply
        self.listed = 0
        self._cached: set[tuple[int, ...]] = set()
        super().__init__(port)

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        owner = "llamacpp" if self.ways.ids == "llamacpp" else "vllm"
        self.listed += 1
        cards = {"data": [{"id": "toy", "owned_by": owner, "max_model_len": self.context}]}
        self.reply(handler, 200, self.tamper(cards))

    def post(self, handler: BaseHTTPRequestHandler, request: dict[str, Any], number: int) -> None:
        fault = self.fault(number)
        if fault == "cut" or (fault == "hang" and self.over.wait(60)):
            return
        if fault in ("drip", "flood"):
            return self.pour(handler, *((1, 0.02) if fault == "drip" else (1 << 20, 0.0)))
        status, body = self.answer(request) if not fault else (int(fault), {"error": "out of order"})
        self.reply(handler, status, self.tamper(body))

    def reply(self, handler: BaseHTTPRequestHandler, status: int, body: Any) -> None:
        headers = {"Retry_After": self.retry_after if status != 200 else "", "Location": self.location}
        self.send(handler, status, body, **headers)

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        ways, prompt = self.ways, request["prompt"]
        if len(prompt) + request["max_tokens"] > self.context:
            return 400, {"error": f"this model's maximum context length is {self.context} tokens"}
        if (request["logprobs"] or 0) > ways.limit and ways.over == "refuse":
            return 400, {"error": f"requested logprobs of {request['logprobs']}, more than allowed: {ways.limit}"}
        seeds = [request["seed"] + (0 if ways.one_seed else i) for i in range(1 if ways.single else request["n"])]
        choices = [self.choice(i, request, seed) for i, seed in enumerate(seeds)]
        blocks = [tuple(prompt[:end]) for end in range(16, len(prompt) + 1, 16)]
        with self.lock:
            cached = 16 * sum(block in self._cached for block in blocks)
            self._cached.update(blocks)
        written = sum(choice.pop("written") for choice in choices)
        usage = {"prompt_tokens": len(prompt), "prompt_tokens_details": {"cached_tokens": cached}}
        usage["completion_tokens"] = written
        return 200, {"choices": choices[::-1], "usage": usage}

    def choice(self, index: int, request: dict[str, Any], seed: int) -> dict[str, Any]:
        tokens, finish = self.sample(request, random.Random(seed))
        rows = [log_distribution(request["prompt"] + tokens[:i]) for i in range(len(tokens))]
        wanted = request["logprobs"] or 0
        shown = len(rows[0]) if wanted < 0 else min(wanted, self.ways.limit)
        best = [np.argsort(-row, kind="stable")[:shown] for row in rows]
        name = str if self.ways.ids == "texts" else "token_id:{}".format
        choice: dict[str, Any] = {"index": index, "finish_reason": finish, "text": self.text(tokens)}
        choice["written"] = len(tokens)
        ids = {"token_ids": tokens} if self.ways.ids == "both" else {}
        if not self.ways.logprobs or not wanted:
            return {**choice, **ids}
        if self.ways.ids == "llamacpp":
            content = [
                {"id": t, "logprob": row[t], "top_logprobs": [{"id": int(b), "logprob": row[b]} for b in ids]}
                for t, row, ids in zip(tokens, rows, best, strict=True)
            ]
            stopped = [stop for stop in request["stop"] if stop in self.text(tokens)]
            content = content[: len(content) - sum(map(len, stopped))]  # its send_final_response does so
            whole = [item for item in content if item["id"] < 128 or item["id"] == EOS]  # no parts of characters
            return {**choice, "logprobs": {"content": whole} if whole else None}
        choice["logprobs"] = {
            "tokens": [name(token) for token in tokens],
            "token_logprobs": [row[token] for row, token in zip(rows, tokens, strict=True)],
            "top_logprobs": [{name(int(b)): row[b] for b in ids} for row, ids in zip(rows, best, strict=True)],
        }
        return {**choice, **ids}

    def text(self, tokens: list[int]) -> str:
        return ToyTokenizer().decode([(token + self.ways.shift) % EOS for token in tokens if token != EOS])

    def sample(self, request: dict[str, Any], stream: random.Random) -> tuple[list[int], str]:
        tokens: list[int] = []
        while len(tokens) < request["max_tokens"]:
            row = log_distribution(request["prompt"] + tokens)
            order = np.argsort(-row, kind="stable")[: request["top_k"] if request["top_k"] > 0 else None]
            place = 0
            if request["temperature"]:
                weights = np.exp((row[order] - row[order[0]]) / request["temperature"])
                place = int(np.searchsorted(np.cumsum(weights), stream.random() * math.fsum(weights)))
            tokens.append(int(order[min(place, len(order) - 1)]))
            ended = tokens[-1] == EOS and not request.get("ignore_eos")
            if ended or tokens[-1] in request["stop_token_ids"] or any(s in self.text(tokens) for s in request["stop"]):
                return tokens, "stop"
        return tokens, "length"


@contextmanager
def serving(*args: Any, **options: Any) -> Iterator[CompletionsServer]:
    """Run a server for a while."""
    server = CompletionsServer(*args, **options)
    try:
        yield server
    finally:
        server.close()


def engine_on(*servers: CompletionsServer, policy: RetryPolicy = QUICK) -> HttpEngine:
    """Return an engine on servers that gives up soon."""
    return open_http(",".join(server.url for server in servers), ToyTokenizer(), "toy", policy=policy)
