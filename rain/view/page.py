"""Puts the page together: one file, no network, no text of a model outside of compressed data."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path

from rain.core.errors import RainError
from rain.page_policy import page_policy
from rain.results.files import check_writable, write_atomic
from rain.results.jsonl import encode_json
from rain.trace.read import read_part
from rain.view.data import RunData

SCRIPTS = ("trace.js", "layout.js", "draw.js", "panels.js", "main.js")


def assemble(live: bool) -> tuple[str, str]:
    """Return the page before and after its data.

    Args:
        live: it may ask the server that it came from, and nobody else; otherwise nobody at all.
    """

    def read(name: str) -> str:
        return files("rain.view").joinpath(name).read_text(encoding="utf-8")

    page = read("page.html").replace("{style}", read("style.css"))
    page = page.replace("{script}", "\n".join(map(read, SCRIPTS)))
    before, _, after = page.replace("{policy}", page_policy(page, connect=live)).partition("{data}")
    return before, after


def write_page(data: RunData, path: Path) -> None:
    """Write the page with all of its data; it replaces a file that is there only when it is whole.

    Raises:
        RainError: the file cannot be written, or a recorded search cannot be read.
    """
    if path.is_dir():
        raise RainError(f"{path} is a folder; give --out the name of a file")
    check_writable(path)
    before, after = assemble(live=False)
    write_atomic(path, (part.encode() for part in chain([before], _blocks(data), [after])))


def _blocks(data: RunData) -> Iterator[str]:
    """Yield the prompts, then each recorded search."""
    names = {id: f"trace-{number}" for number, id in enumerate(data.traces)}
    prompts = [{**prompt, "trace": names.get(prompt["id"])} for prompt in data.prompts]
    yield _block("index", encode_json({"title": data.title, "prompts": prompts}))
    for id, path in data.traces.items():
        yield _block(names[id], read_part(path).data)


def _block(name: str, content: bytes) -> str:
    packed = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>\n'
