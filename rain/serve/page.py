"""The page at /: one file, no network but this server."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response


def page_response() -> Response:
    """Return the page; its policy allows the script and the style that are in it, and nothing else."""
    text, policy = _page()
    return Response(text, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy})


@cache
def _page() -> tuple[str, str]:
    text = files("rain.serve").joinpath("page.html").read_text(encoding="utf-8")
    script, style = (_digest(text, tag) for tag in ("script", "style"))
    own = f"script-src {script}; style-src {style}; connect-src 'self'"
    return text, f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _digest(text: str, tag: str) -> str:
    """Return the hash by which a policy names the page's only element of this kind."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", text, flags=re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
