"""Awaiting several things at once."""

from __future__ import annotations

import asyncio
from typing import Any


async def gather_or_cancel(*coroutines: Any) -> list[Any]:
    """Await all; if one fails or this call is cancelled, cancel the others before passing it on."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
