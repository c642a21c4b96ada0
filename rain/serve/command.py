"""``rain serve``: an OpenAI-compatible server that streams text as it is committed."""

from __future__ import annotations

import argparse
import os
import socket

from rain.configs import RunConfig
from rain.core.errors import RainError
from rain.extras import need
from rain.flags import add_flags, build
from rain.serve.config import ServeConfig
from rain.settings import add_setting_flags, given_settings
from rain.tasks import names
from rain.tasks.goals import GOALS

NEEDED = ("fastapi", "uvicorn", "pydantic", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain serve``."""
    parser.usage = "%(prog)s [FLAGS]"
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--goal", choices=list(GOALS), help="what to align to (default: harmless)")
    what.add_argument("--task", choices=names(), help="instead of a goal, the setting of a benchmark")
    add_flags(parser, ServeConfig, {}, "server")
    add_setting_flags(parser, without=[RunConfig])


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; return the exit code."""
    need("rain serve", "serve", *NEEDED)
    config = build(ServeConfig, vars(args))
    with _listen(config) as listening:
        from rain.serve.process import serve

        return serve(config, listening, {"goal": args.goal, "task": args.task, **given_settings(args)})


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
