"""Workers that answer with a completions server, and soon lose their patience with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from support.completions_server import CompletionsServer, engine_on
from support.tiny_task import make_aligner, make_task

from rain.engines.remote.client import RetryPolicy
from rain.pool.worker import WorkerArgs, WorkerLink
from rain.worker import answer_jobs

IMPATIENT = RetryPolicy(reply=5.0, retry=0.3, pause=0.02)
LIMITS: dict[str, Any] = {"max_simulations": 2, "extra_simulations": 1, "min_visits": 0, "max_new_tokens": 3}


def impatient(args: WorkerArgs, link: WorkerLink) -> None:
    """Answer prompts; settings: a folder and the server's address."""
    folder, url = args.settings
    engine = engine_on(cast(CompletionsServer, SimpleNamespace(url=url)), policy=IMPATIENT)
    aligner = make_aligner(make_task(Path(folder)), engine, **LIMITS)
    asyncio.run(answer_jobs(aligner, link))
