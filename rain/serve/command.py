"""``rain serve``: an OpenAI-compatible server whose text flows as it becomes final."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rain.core.errors import RainError
from rain.flags import add_flags, build
from rain.library import Rain
from rain.serve.config import ServeConfig
from rain.settings import add_answer_flags
from rain.tasks import names
from rain.tasks.goals import goal_names
from rain.terminal import printable, say

if TYPE_CHECKING:
    from rain.serve.service import Service

NEEDED = ("fastapi", "uvicorn", "pydantic", "prometheus_client")
BROKEN = 1
"""Exit code after the device has failed."""

SWITCH_INTERVAL = 0.0005
"""Seconds after which a search leaves the interpreter to the connections' thread; Python's 0.005 are paid at each of
their system calls, and many clients then wait for seconds."""

LAST_BYTES = 5
"""Seconds that answers which are ready may take to reach their clients when the server ends."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain serve``."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--goal", choices=goal_names(), help="what to align to (default: harmless)")
    what.add_argument("--task", choices=names(), help="instead of a goal, the setting of a benchmark")
    add_flags(parser, ServeConfig, {}, "server")
    add_answer_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; return the exit code."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RainError(f"rain serve needs {', '.join(missing)}; in RAIN's folder: pip install -e '.[serve]'")
    given = vars(args)
    config = build(ServeConfig, given)
    own = {field.name for field in dataclasses.fields(ServeConfig)} | {"command", "goal", "task"}
    settings = {name: value for name, value in given.items() if name not in own}
    listening = _listen(config)
    sys.setswitchinterval(SWITCH_INTERVAL)
    with listening:
        return asyncio.run(_serve(config, listening, {"goal": args.goal, "task": args.task, **settings}))


def _listen(config: ServeConfig) -> socket.socket:
    """Return a socket that listens.

    Raises:
        RainError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((config.host, config.port), family=family, backlog=1024)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited: a chunk must not wait for an ACK
        return listening
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise RainError(f"cannot listen on --host {config.host} --port {config.port}: {reason}") from error


async def _serve(config: ServeConfig, listening: socket.socket, settings: Mapping[str, Any]) -> int:
    """Listen, load the model, and answer until the end."""
    import uvicorn

    from rain.serve.admission import Admission
    from rain.serve.app import make_app
    from rain.serve.budgets import BudgetRules
    from rain.serve.gate import Gate
    from rain.serve.keys import Keys
    from rain.serve.metrics import Metrics
    from rain.serve.models import Models
    from rain.serve.service import Service

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals drain, see below

    admission = Admission(config.concurrency, config.max_queue)
    keys = Keys.from_file(config.api_key_file) if config.api_key_file else Keys({})
    rules = BudgetRules.from_texts(settings.get("budget", ""), config.max_budget)
    service = Service(config, rules, keys, admission, Metrics(admission), _log)
    options = {"log_level": "warning", "access_log": False, "server_header": False, "lifespan": "off"}
    server = Server(
        uvicorn.Config(Gate(make_app(service), service), timeout_graceful_shutdown=LAST_BYTES, **options)  # type: ignore[arg-type]
    )
    stop = asyncio.Event()
    service.ending = stop.set
    _on_signals(stop)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    loading = asyncio.create_task(asyncio.to_thread(_load, settings))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({loading, stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            service.rain, service.fingerprint = loading.result()
            service.models = Models(service.rain.settings.aligner.model.name)
            page = f", page: {url}" if config.has_page else ""
            say(f"rain: serving {', '.join(service.models.ids)} on {url}/v1{page}")
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


def _load(settings: Mapping[str, Any]) -> tuple[Rain, str]:
    """Return what answers, and what its answers depend on besides prompt and seed."""
    from rain.launch import model_files
    from rain.results.inputs import fingerprint

    rest = {name: value for name, value in settings.items() if name != "modelname"}
    rain = Rain(settings.get("modelname", "smollm2"), progress=False, **rest)
    files = model_files(rain.settings)
    weights = fingerprint(files) if files else ""
    return rain, "fp_" + hashlib.sha256(f"{rain.aligner.config.hash} {weights}".encode()).hexdigest()[:16]


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
