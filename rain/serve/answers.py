"""Sending answers, whole or as a stream, as long as the client is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from rain.core.concurrency import cancel_all, run_within
from rain.generation import Answer
from rain.serve.errors import ApiError
from rain.serve.replies import AnswerJob, Chunks, usage, whole
from rain.serve.service import Item, Service
from rain.serve.trace import Trace

GONE = 499
"""Status in the log where the client left before the end."""

SLOWEST_READER = 60.0
"""Seconds that a client may take to read what is sent, before it counts as gone."""

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class AnswerResponse(Response):
    """Runs the searches of a request and sends what they say; a client that leaves ends them.

    Args:
        service: runs searches.
        job: the request, which has been admitted; its places are given back at the end.
        trace: what the log says.
        stream: whether text is sent as it becomes final.
    """

    def __init__(self, service: Service, job: AnswerJob, trace: Trace, stream: bool) -> None:
        super().__init__()
        self.service, self.job, self.trace, self._places = service, job, trace, job.choices
        self._said_all, self._answers = False, list[Answer]()
        self._work = self._stream if stream else self._whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and watch the connection at the same time: a silent search would not notice that it is closed."""
        work = asyncio.create_task(self._work(scope, receive, send))
        watch = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            try:
                if not work.done() and not self._said_all:
                    raise ClientDisconnect
                await work
            except ClientDisconnect:
                self.service.metrics.disconnects.inc()
                self.trace.status = GONE
        finally:
            await cancel_all((work, watch))
            self._leave()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for _ in self._events():
                pass
        except Exception as error:
            await error_response(self._failed(error))(scope, receive, send)
            return
        await JSONResponse(whole(self.job, self._answers))(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        chunks = Chunks(self.job)

        async def push(data: bytes, more: bool = True) -> None:
            message: Message = {"type": "http.response.body", "body": data, "more_body": more}
            if not await run_within(_sent(send, message), SLOWEST_READER):
                raise ClientDisconnect

        try:
            for index in range(self.job.choices if self.job.chat else 0):
                await push(_event(chunks.begin(index)))
            async with aclosing(self._events()) as events:
                async for item in events:
                    if item is None:
                        await push(b": keep-alive\n")
                        continue
                    index, event = item
                    chunk = chunks.end(index, event) if isinstance(event, Answer) else chunks.text(index, event)
                    if chunk:
                        await push(_event(chunk))
            if self.job.stream_options.include_usage:
                await push(_event(chunks.usage(self._answers)))
        except ClientDisconnect:
            raise
        except Exception as error:
            await push(_event(self._failed(error).body))
        self._said_all = True  # from here on the end of the connection is no client that leaves
        await push(b"data: [DONE]\n\n", more=False)

    async def _events(self) -> AsyncGenerator[Item | None, None]:
        """Yield what the searches send; keep the answers, and take the time of the first text."""
        spoken, found = False, dict[int, Answer]()
        async with aclosing(self.service.events(self.job)) as events:
            async for item in events:
                if item and isinstance(item[1], Answer):
                    found[item[0]] = item[1]
                    if self.service.config.log_text:
                        self.trace.fields.setdefault("answers", []).append(item[1].text)
                if item and not spoken and (isinstance(item[1], Answer) or item[1].text):
                    spoken = True
                    self.service.metrics.first_commit.observe(monotonic() - self.trace.started)
                yield item
        self._answers = [found[index] for index in sorted(found)]
        self._finished()

    def _finished(self) -> None:
        """Make room for the next request, which may follow at once, and count an answer for the metrics and the log."""
        self._leave()
        answers, metrics, used = self._answers, self.service.metrics, usage(self.job, self._answers)
        simulations = sum(answer.cost.get("simulations", 0) for answer in answers)
        metrics.simulations.inc(simulations)
        for name in ("prompt_tokens", "completion_tokens"):
            getattr(metrics, name).inc(used[name])
            self.trace.fields[name] = used[name]
        self.trace.fields.update(finish=[answer.finish for answer in answers], simulations=simulations)

    def _leave(self) -> None:
        """Give the places back, once."""
        self.service.admission.leave(self._places)
        self._places = 0

    def _failed(self, error: Exception) -> ApiError:
        """Return the client's error, and note it for the log."""
        self.trace.failed(error)
        return self.service.failure(error)


def error_response(error: ApiError) -> Response:
    """Return an error as an answer."""
    return JSONResponse(error.body, error.status, error.headers)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


async def _sent(send: Send, message: Message) -> None:
    await send(message)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
