"""``rain view --serve``: the page follows a run in progress. It answers this machine only, at a secret address."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rain.core.errors import RainError
from rain.results.jsonl import encode_json
from rain.trace.read import Part, parse_events, read_part
from rain.trace.record import SUFFIX
from rain.view.data import RunData, files, load
from rain.view.page import assemble

LARGEST = 1 << 23
"""Bytes of a file that one reply is made of at most."""


class Follower:
    """A run, read again whenever its files have changed."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        self.version, self.data = "", RunData("", [], {})
        self._read: dict[Path, tuple[int, bool]] = {}  # of recorded searches: how far they were read, whether ended
        self.update()

    def update(self) -> None:
        """Read what is new."""
        with self._lock:
            seen, alone = hashlib.sha256(), not (self.path / "config.json").exists()
            for file in sorted(files(self.path)):
                found = file.stat()
                state: object = (found.st_size, found.st_mtime_ns)
                if file.name.endswith(SUFFIX):
                    state = (found.st_size > 0, alone and self._has_ended(file, found.st_size))
                seen.update(f"{file} {state}\n".encode("utf-8", "surrogateescape"))
            if (version := seen.hexdigest()[:16]) != self.version:
                self.data, self.version = load(self.path), version

    def _has_ended(self, file: Path, size: int) -> bool:
        """Tell whether a recorded search has ended, which nothing but its file says where there are no records."""
        place, ended = self._read.get(file, (0, False))
        if size < place:  # another search is in the file
            place, ended = 0, False
        if size > place:
            with suppress(RainError):  # ``load`` says what is wrong with it
                part = read_part(file, place)
                if part.data:
                    last = next(parse_events(file, part.data.splitlines()[-1] + b"\n"))
                    place, ended = part.end, last["event"] == "end"
        self._read[file] = place, ended
        return ended

    def index(self) -> bytes:
        """Return the prompts as JSON."""
        prompts = [{**prompt, "trace": prompt["id"] in self.data.traces} for prompt in self.data.prompts]
        return encode_json({"title": self.data.title, "prompts": prompts, "version": self.version})

    def events(self, id: str, start: int) -> tuple[Part, int]:
        """Return what was added to a recorded search since ``start``, or all of a new one; and where that begins.

        Raises:
            RainError: there is no such search.
        """
        path = self.data.traces.get(id)
        if path is None:
            raise RainError(f"there is no recorded search of {id}")
        try:
            if start <= path.stat().st_size:
                return read_part(path, start, LARGEST), start
        except RainError:
            pass  # another search is in the file, and no member begins there
        return read_part(path, 0, LARGEST), 0


class LocalServer(ThreadingHTTPServer):
    """Shows a run to this machine.

    Attributes:
        root: the page's path, which others cannot guess.
    """

    def __init__(self, follower: Follower, port: int) -> None:
        self.follower, self.root = follower, f"/{secrets.token_urlsafe(16)}/"
        self.page = "".join(assemble(live=True)).encode()
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has left."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: LocalServer

    def do_GET(self) -> None:
        """Send the page, the prompts or what was added to a search."""
        asked, port, root = urlsplit(self.path), self.server.server_port, self.server.root
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        if self.headers.get("host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self._send(403, b"this page answers at its own address only")
        elif asked.path == root:
            self._send(200, self.server.page, "text/html; charset=utf-8")
        elif asked.path in (f"{root}index", f"{root}events"):
            try:
                self._answer(asked.path.removeprefix(root), query, self.server.follower)
            except (RainError, OSError, ValueError) as error:
                self._send(500, str(error).encode())
        else:
            self._send(404, b"there is no such page")

    def _answer(self, what: str, query: dict[str, str], follower: Follower) -> None:
        follower.update()
        if what == "events":
            part, start = follower.events(query.get("prompt", ""), int(query.get("from", "0")))
            self._send(200, part.data, more={"x-from": str(start), "x-next": str(part.end)})
        elif query.get("have") == follower.version:
            self._send(204, b"")
        else:
            self._send(200, follower.index(), "application/json")

    def _send(
        self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8", more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        fixed = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"}
        for name, value in {**fixed, "x-content-type-options": "nosniff", **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the address in the requests is secret."""
        return None


def make_server(path: Path, port: int) -> tuple[LocalServer, str]:
    """Return a server that listens on this machine, and the page's address.

    Raises:
        RainError: the port cannot be used, or there is nothing to show.
    """
    follower = Follower(path)
    try:
        server = LocalServer(follower, port)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise RainError(f"cannot listen on --port {port}: {reason}") from error
    return server, f"http://127.0.0.1:{server.server_port}{server.root}"
