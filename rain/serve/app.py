"""The routes."""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from rain.calls import PromptLike
from rain.core.errors import PromptTooLong, RainError
from rain.evaluators.base import Evaluator
from rain.generation import PreparedPrompt
from rain.library import Rain
from rain.serve.answers import GONE, AnswerResponse, error_response
from rain.serve.errors import ApiError
from rain.serve.page import page_response
from rain.serve.replies import AnswerJob
from rain.serve.schema import ChatRequest, CompletionRequest, RainFields, StreamOptions, parse
from rain.serve.service import Service
from rain.serve.trace import trace_of

LARGEST_BODY = 1 << 20
SLOWEST_BODY = 30.0
"""Seconds that a client may take to send its request."""

MARGIN = 0.9
"""Share of the client's patience within which an answer is sent."""


def make_app(service: Service) -> FastAPI:
    """Return the application of a service."""
    faults: Any = {
        ApiError: _on_api_error,
        HTTPException: _on_http_error,
        ClientDisconnect: _on_gone,
        Exception: _on_fault,
    }
    app = FastAPI(title="RAIN", openapi_url=None, redirect_slashes=False, exception_handlers=faults)
    routes, add = Routes(service), partial(app.add_api_route, response_model=None)
    for prefix in ("", "/v1"):
        add(f"{prefix}/chat/completions", routes.chat, methods=["POST"])
        add(f"{prefix}/completions", routes.complete, methods=["POST"])
        add(f"{prefix}/models", routes.models)
        add(f"{prefix}/models/{{id:path}}", routes.model)
    add("/health", routes.health)
    add("/version", routes.version)
    add("/metrics", routes.metrics)
    if service.config.has_page:
        add("/", routes.page)
    return app


class Routes:
    """What each route does."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, ChatRequest)

    async def complete(self, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, CompletionRequest)

    async def models(self, request: Request) -> Response:
        """List the models."""
        rain = self._open(request, "models").ready()
        return JSONResponse({"object": "list", "data": [self._card(rain, id) for id in self.service.models.ids]})

    async def model(self, request: Request, id: str) -> Response:
        """Describe one model."""
        rain = self._open(request, "models").ready()
        self.service.models.find(id)
        return JSONResponse(self._card(rain, id))

    async def health(self, request: Request) -> Response:
        """Tell whether requests are answered."""
        self._open(request, "/health").ready()
        return JSONResponse({"status": "ok"})

    async def version(self, request: Request) -> Response:
        """Tell the version."""
        self._open(request, "version")
        return JSONResponse({"version": version("rain")})

    async def metrics(self, request: Request) -> Response:
        """Return the counters."""
        service = self._open(request, "/metrics")
        return Response(service.metrics.text(service.rain), media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        """Return the page."""
        self._open(request, "/")
        return page_response()

    def _open(self, request: Request, route: str) -> Service:
        trace_of(request.scope).route = route
        return self.service

    def _card(self, rain: Rain, id: str) -> dict[str, object]:
        created = int(self.service.started)
        limit = min(rain.aligner.engine.context, rain.aligner.config.search.maxlen)
        return {"id": id, "object": "model", "created": created, "owned_by": "rain", "max_model_len": limit}

    async def _answer(self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
        """Check, admit and encode a request; what it returns runs the searches."""
        service, trace = self._open(request, "chat" if kind is ChatRequest else "completions"), trace_of(request.scope)
        rain = service.ready()
        if request.headers.get("content-type", "").partition(";")[0].strip().casefold() != "application/json":
            raise ApiError(415, "the content type must be application/json", "unsupported_media_type")
        service.admission.check()  # before anything is read
        asked = parse(kind, await read_body(request))
        served, ignored = service.models.find(asked.model), asked.ignored(service.config.strict)
        own, choices = asked.rain or RainFields(), asked.n or 1
        evaluator = _evaluator(rain, own.evaluator)
        budget = service.rules.choose(request.headers.get("x-rain-budget"), own.budget)
        with service.admission.admit(choices):
            prepared = await self._prepare(rain, asked)
            trace.fields.update(model=asked.model, stream=bool(asked.stream))
            if service.config.log_text:
                trace.fields["prompt"] = prepared.question
            patience, silence = _patience(request), service.config.keep_alive
            chat = kind is ChatRequest
            job = AnswerJob(
                head={
                    "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
                    "created": int(time.time()),
                    "model": asked.model,
                    "system_fingerprint": service.fingerprint,
                },
                chat=chat,
                served=served,
                prompt=prepared,
                evaluator=evaluator,
                choices=choices,
                budget=budget,
                shared=rain.aligner.engine.cached_tokens(prepared.tokens),
                deadline=trace.started + MARGIN * patience if patience and not asked.stream else None,
                silence=min(silence, patience / 2) if patience else silence,
                stream_options=asked.stream_options or StreamOptions(),
                ignored=ignored,
            )
        return AnswerResponse(service, job, trace, bool(asked.stream))

    async def _prepare(self, rain: Rain, asked: ChatRequest | CompletionRequest) -> PreparedPrompt:
        """Encode the prompt of a request."""
        try:
            prompt, options = _prompt(rain, asked)
            return await rain.aprepare(
                prompt, seed=asked.seed, max_new_tokens=asked.max_tokens, stop=asked.stop or (), **options
            )
        except Exception as error:
            param = "prompt" if isinstance(asked, CompletionRequest) else "messages"
            if isinstance(error, RainError) and not isinstance(error, PromptTooLong):
                raise ApiError(400, str(error), "invalid_value", param) from error
            raise self.service.failure(error, param) from error


def _evaluator(rain: Rain, name: str | None) -> Evaluator | None:
    """Return the evaluator that is asked for, None for the usual one."""
    if name is not None and name not in rain.evaluators:
        started = ", ".join(rain.evaluators)
        raise ApiError(400, f"this server evaluates with {started}", "invalid_value", "rain.evaluator")
    return None if name is None else rain.evaluators[name]


def _prompt(rain: Rain, asked: ChatRequest | CompletionRequest) -> tuple[PromptLike, dict[str, Any]]:
    """Return a prompt and its options: one user's message is a question as in ``rain ask``, else a conversation.

    A model without a chat template gets a conversation as one text, in the words of the evaluation template.
    """
    if isinstance(asked, CompletionRequest):
        return asked.prompt, {"raw": True}
    messages, config = [message.turn for message in asked.messages], rain.aligner.config
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"], {}
    if rain.aligner.adapter.can_chat or config.prompt_file is None:
        return messages, {}
    continued = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    text = config.template.conversation(messages)
    if continued is None:
        return text, {}
    before, after = config.prompt_file
    return f"{before}{text}{after} {continued}", {"raw": True, "question": text}


def _patience(request: Request) -> float:
    """Return how long the client waits for the next byte (seconds), 0 if it does not say."""
    try:
        seconds = float(request.headers.get("x-stainless-read-timeout", ""))
    except ValueError:
        return 0.0
    return seconds if 0.1 <= seconds < 10**6 else 0.0


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        ApiError: it is too long, or does not arrive.
    """
    too_long = ApiError(413, f"a request may have {LARGEST_BODY} bytes", "request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 9 or int(length) > LARGEST_BODY):
        raise too_long
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > LARGEST_BODY:
                raise too_long

    try:
        await asyncio.wait_for(read(), SLOWEST_BODY)
    except asyncio.TimeoutError as error:
        raise ApiError(408, "the request did not arrive", "request_timeout") from error
    return bytes(body)


async def _on_api_error(request: Request, error: ApiError) -> Response:
    trace_of(request.scope).fields["error"] = error.code
    return error_response(error)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return error_response(ApiError(error.status_code, str(error.detail), code, headers=error.headers))


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _on_fault(request: Request, error: Exception) -> Response:
    return error_response(ApiError(500, f"the server failed ({type(error).__name__})", "internal_error"))
