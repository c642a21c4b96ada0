"""In front of all routes: request ids, Host and Origin, keys, CORS, log and metrics; no body is read here."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timezone
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rain.serve.answers import error_response
from rain.serve.errors import ApiError
from rain.serve.service import Service
from rain.serve.trace import Trace

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
PUBLIC = ("/", "/health")
"""Paths that need no key."""

QUIET = ("/", "/health", "/metrics")
"""Routes that are not logged."""

class Gate:
    """An ASGI application around another one.

    Args:
        app: the routes.
        service: its settings, keys, log and metrics.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        origins, headers = service.config.cors, ("x-request-id", "retry-after")
        # A page may send any header, since keys are what protects the server.
        self._cors = CORSMiddleware(self._let_in, origins, ("GET", "POST"), ("*",), expose_headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        trace = scope["rain"] = Trace(given if SANE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = trace.id
                out["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self._cors(scope, receive, send_with_headers)
        except Exception as error:  # a fault of the server, which has been answered with 500
            trace.failed(error)
        finally:
            self._write_down(scope, headers, trace)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by the routes, or refuse it."""
        headers, answer = Headers(scope=scope), self.app
        try:
            self._check_host(headers)
            if scope["path"] not in PUBLIC:
                scope["rain"].key = self._key_name(headers)
        except ApiError as error:
            answer = error_response(error)
        await answer(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that lead here without belonging here (DNS rebinding), and pages of other origins."""
        host, hosts, origin = headers.get("host", ""), self.service.config.hosts, headers.get("origin")
        name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
        if hosts and name.strip("[]").casefold() not in hosts:
            raise ApiError(403, "the Host header names another server; see --allow-host", "forbidden_host")
        own = ("http://" + host, "https://" + host)
        if origin is not None and origin not in own and origin not in self.service.config.cors:
            raise ApiError(403, "pages of this origin may not use the server; see --cors", "forbidden_origin")

    def _key_name(self, headers: Headers) -> str:
        keys = self.service.keys
        if not keys:
            return ""
        if (name := keys.name(headers.get("authorization", ""))) is None:
            raise ApiError(401, "a valid key is missing; send Authorization: Bearer KEY", "invalid_api_key")
        return name

    def _write_down(self, scope: Scope, headers: Headers, trace: Trace) -> None:
        seconds = monotonic() - trace.started
        self.service.metrics.requests.labels(trace.route, str(trace.status)).inc()
        if trace.route in QUIET:
            return
        self.service.metrics.seconds.observe(seconds)
        retry = headers.get("x-stainless-retry-count", "0")
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "request": trace.id,
            "key": trace.key,
            "method": scope["method"][:16],
            "path": scope["path"][:200],
            "status": trace.status,
            "seconds": round(seconds, 3),
            **({"retry": int(retry)} if retry.isdecimal() and 0 < len(retry) < 4 and int(retry) else {}),
            **trace.fields,
        }
        self.service.log(line)
