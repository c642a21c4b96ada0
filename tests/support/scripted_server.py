"""What the scripted servers of the tests share: a port of this machine, a thread, and what was asked."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FLOOD = 300 << 20


class ScriptedServer:
    """Serves on 127.0.0.1 until `close`; subclasses answer in `get` and `post`, with the handler of the request.

    Attributes:
        requests, headers: of all POST requests.
        over: set when the test is over, for those who wait.
        sent: bytes of endless replies.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        self.lock, self.over = threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(404)

    def send(self, handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
        """Send bytes as they are and anything else as JSON; a header without a text is left out."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.begin(handler, status, {"Content_Type": "application/json", "Content_Length": str(len(data)), **headers})
        with suppress(OSError):
            handler.wfile.write(data)

    def begin(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            if value:
                handler.send_header(name.replace("_", "-"), value)
        with suppress(OSError):
            handler.end_headers()

    def pour(self, handler: BaseHTTPRequestHandler, size: int, pause: float) -> None:
        """Send spaces in pieces of this size, up to FLOOD bytes."""
        self.begin(handler, 200, {"Content-Type": "application/json"})
        with suppress(OSError):
            while self.sent < FLOOD and not self.over.wait(pause):
                handler.wfile.write(b" " * size)
                self.sent += size

    def post(self, handler: BaseHTTPRequestHandler, request: dict[str, Any], number: int) -> None:
        raise NotImplementedError

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.get(self)

            def do_POST(self) -> None:
                try:
                    request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                except (ValueError, OSError):
                    return  # the client has left
                with outer.lock:
                    number = len(outer.requests)
                    outer.requests.append(request)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                outer.post(self, request, number)

            def log_message(self, *args: Any) -> None:
                return None

        return Handler
