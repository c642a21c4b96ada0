"""The process of ``rain serve``: it listens, loads the model, and answers until a signal comes or the device fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from rain.library import Rain
from rain.models.loading import model_files
from rain.results.inputs import fingerprint
from rain.serve.app import make_app
from rain.serve.budgets import BudgetRules
from rain.serve.config import ServeConfig
from rain.serve.gate import Gate
from rain.serve.models import Models
from rain.serve.service import Service
from rain.terminal import printable, say

BROKEN = 1
"""Exit code after the device has failed."""

SWITCH_INTERVAL = 0.0005
"""Seconds after which a search leaves the interpreter to the connections' thread; Python's 0.005 are paid at each of
their system calls, and many clients then wait for seconds."""

LAST_BYTES = 5
"""Seconds that answers which are ready may take to reach their clients when the server ends."""


class Server(uvicorn.Server):
    """Leaves signals alone: they drain, see ``_on_signals``."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


def serve(config: ServeConfig, listening: socket.socket, settings: Mapping[str, Any]) -> int:
    """Answer on a socket until the end; return the exit code.

    Args:
        config: of the server.
        listening: a socket that listens.
        settings: of ``Rain``.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    return asyncio.run(_serve(Service(config, settings.get("budget", ""), _log), listening, settings))


async def _serve(service: Service, listening: socket.socket, settings: Mapping[str, Any]) -> int:
    """Listen, load the model, and answer until the end."""
    options: Any = {"log_level": "warning", "access_log": False, "server_header": False, "lifespan": "off"}
    app: Any = Gate(make_app(service), service)
    server = Server(uvicorn.Config(app, timeout_graceful_shutdown=LAST_BYTES, **options))
    stop = asyncio.Event()
    service.ending = stop.set
    _on_signals(stop)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    loading = asyncio.create_task(asyncio.to_thread(_load, settings, service.rules))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({loading, stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            service.rain, service.fingerprint = loading.result()
            service.models = Models(service.rain.settings.aligner.model.name)
            _announce(service, listening)
            await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
        elif stop.is_set():
            os._exit(0)  # a model that is being loaded cannot be interrupted in any other way
        await _drain(service)
    finally:
        server.should_exit = True
        stopped.cancel()
        await serving
        if service.rain:
            await asyncio.to_thread(service.rain.close)
    if service.broken:
        say(f"rain: error: {service.broken}", sys.stderr)
    return BROKEN if service.broken else 0


def _announce(service: Service, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    page = f", page: {url}" if service.config.has_page else ""
    say(f"rain: serving {', '.join(service.models.ids)} on {url}/v1{page}")


def _load(settings: Mapping[str, Any], rules: BudgetRules) -> tuple[Rain, str]:
    """Return what answers, and what its answers depend on besides prompt and seed."""
    rest = {name: value for name, value in settings.items() if name != "modelname"}
    rain = Rain(settings.get("modelname", "smollm2"), progress=False, **rest)
    model = rain.settings.aligner.model
    files = model_files(model.modelname, model.engine)
    weights = fingerprint(files) if files else ""
    about = f"{rain.aligner.config.hash} {weights} {rules.choose(None, None)}"
    return rain, "fp_" + hashlib.sha256(about.encode()).hexdigest()[:16]


def _on_signals(stop: asyncio.Event) -> None:
    """The first SIGTERM or Ctrl-C lets answers in progress finish; the second ends at once."""

    def received(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received, number)


async def _drain(service: Service) -> None:
    """Refuse new requests, and let those in progress finish for a while."""
    service.draining = True
    seconds, running = service.config.drain, service.admission.admitted
    if running and not service.broken:
        say(f"rain: shutting down; {running} searches have {seconds:g} s to finish (again: end at once)")
        end = asyncio.get_running_loop().time() + seconds
        while service.admission.admitted and asyncio.get_running_loop().time() < end and not service.broken:
            await asyncio.sleep(0.05)
    service.end_all("the server is shutting down")


def _log(line: Mapping[str, Any]) -> None:
    """Write a line of JSON to standard error, in which everything unusual is an escape."""
    say(printable(json.dumps(line)), sys.stderr)
