"""The Content-Security-Policy of a page: its own script and style, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re


def page_policy(page: str, *, connect: bool = False) -> str:
    """Return the policy of a page, which names its script and its style by their hashes.

    Args:
        page: HTML, with one script and one style that have no attributes.
        connect: whether it may ask the server that it came from; otherwise it may ask nobody.
    """
    policy = "default-src 'none'"
    for tag in ("script", "style"):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        policy += f"; {tag}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    return policy + ("; connect-src 'self'" if connect else "") + "; base-uri 'none'; form-action 'none'"
