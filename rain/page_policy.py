"""How a page's Content-Security-Policy names the scripts and styles that the page has itself."""

from __future__ import annotations

import base64
import hashlib
import re


def source(content: str) -> str:
    """Return the name of a script's or style's content: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def element_source(page: str, tag: str) -> str:
    """Return the name of the content of a page's only element of this kind."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.S)
    return source(content)
