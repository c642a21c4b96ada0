"""The page at /: one file, no network but this server."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.responses import Response

from rain.page_policy import element_source


def page_response() -> Response:
    """Return the page; its policy allows the script and the style that are in it, and nothing else."""
    text, policy = _page()
    return Response(text, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy})


@cache
def _page() -> tuple[str, str]:
    text = files("rain.serve").joinpath("page.html").read_text(encoding="utf-8")
    script, style = (element_source(text, tag) for tag in ("script", "style"))
    own = f"script-src {script}; style-src {style}; connect-src 'self'"
    return text, f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
