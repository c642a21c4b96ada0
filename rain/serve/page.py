"""The page at /: one file, no network but this server."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.responses import Response

from rain.page_policy import page_policy


def page_response() -> Response:
    """Return the page; its policy allows the script and the style that are in it, and nothing else."""
    text, policy = _page()
    return Response(text, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy})


@cache
def _page() -> tuple[str, str]:
    text = files("rain.serve").joinpath("page.html").read_text(encoding="utf-8")
    return text, page_policy(text, connect=True) + "; frame-ancestors 'none'"
