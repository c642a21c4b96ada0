"""Writes down one search as it goes: JSON Lines in gzip members, each of which is whole.

| event | fields |
|---|---|
| search | format, id, question, prompt (text), prompt_tokens, seed, config (``RainConfig``), asks, started (Unix) |
| nodes | t, parent, added (by node addition), texts, tokens, priors, first_prior; numbered on, the first root is 0 |
| visit | t, path (from the root then), rollout (text), score, similar ([node, weight]), evidence; text: see below |
| commit | t, node, simulations, finish |
| end | t, finish, answer, cost |

A node's greedy child may come first, with a prior of null; the event of its siblings then has that as ``first_prior``.
``t`` is in seconds from the beginning. ``asks`` and ``evidence`` are ``SearchScorer.asks`` and ``.seen``. The text of
a visit is that of the committed nodes, the path and the rollout; where the decoder says otherwise it is given as
``text``, and where an evaluator read another one, that is given as ``read`` in its evidence.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rain.core.config import RainConfig
from rain.core.tree import Node, Update
from rain.core.types import Tokens
from rain.evaluators.base import SearchScorer
from rain.results.files import write_error
from rain.results.jsonl import encode_json
from rain.stopping import TextStopPolicy

FORMAT = 2
"""In format 1 all candidates of a node came at once, with their priors."""

SUFFIX = ".jsonl.gz"
TRACES = "trace"
"""Folder of the traces in an OUTDIR."""

FLUSH_S, FLUSH_BYTES = 2.0, 1 << 18
"""A member is written at each commit, and before that after so many seconds or bytes."""

Append = Callable[[bytes, bool], None]
"""Takes a member, and whether it is the first of a search: then it replaces a search that is there."""

LONGEST_NAME = 150
CONTEXT = 4
"""Tokens in front of a text that are decoded with it: some decoders drop the space that a text begins with."""


def trace_file(folder: Path, id: str) -> Path:
    """Return the file of a prompt's search, whatever is in the prompt's id."""
    name = quote(id, safe=" ()[],;=+@", errors="replace")
    if len(name) > LONGEST_NAME or name[:1] in ("", "."):
        name = f"_{name[:LONGEST_NAME]}-{sha256(id.encode('utf-8', 'replace')).hexdigest()[:16]}"
    return folder / (name + SUFFIX)


def append_to_file(path: Path, member: bytes, first: bool) -> None:
    """Append a member to the file of a search.

    Raises:
        RainError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb" if first else "ab") as file:
            file.write(member)
    except OSError as error:
        raise write_error(path, error) from error


def to_file(path: Path) -> Append:
    """Return what records a search in a file."""
    return partial(append_to_file, path)


class TraceWriter:
    """Collects events into members, and hands these on."""

    def __init__(self, append: Append) -> None:
        self._append, self._first, self._buffer, self._flushed = append, True, bytearray(), time.monotonic()

    def write(self, event: dict[str, Any], *, flush: bool = False) -> None:
        """Add an event; it is handed on with the next flush."""
        self._buffer += encode_json(event) + b"\n"
        if flush or len(self._buffer) > FLUSH_BYTES or time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Hand on what is waiting as one member."""
        data, first = bytes(self._buffer), self._first
        self._buffer, self._first, self._flushed = bytearray(), False, time.monotonic()
        if data:
            self._append(gzip.compress(data, 6, mtime=0), first)


class Recorder:
    """The observer of one search (``rain.core.observer.Observer``).

    Args:
        append: takes what is recorded.
        about: fields of the first event.
        prompt: ids of the prompt.
        config: of the search.
        root: of the search.
        scorer: of the search.
        policy: turns ids into text.
    """

    def __init__(
        self,
        append: Append,
        about: dict[str, Any],
        prompt: Tokens,
        config: RainConfig,
        root: Node,
        scorer: SearchScorer,
        policy: TextStopPolicy,
    ) -> None:
        self._prompt, self._scorer, self._policy = prompt, scorer, policy
        self._decode = policy.adapter.decode
        self._nodes = {root: (0, "")}  # number and text; also keeps them alive, so that identities stay unique
        self._incomplete = set[Node]()  # those of whose candidates the greedy one alone is known
        self._count, self._committed, self._started = 1, "", time.perf_counter()
        self._writer = TraceWriter(append)
        self._write(
            "search",
            format=FORMAT,
            **about,
            prompt=self._decode(prompt),
            prompt_tokens=len(prompt),
            config=asdict(config),
            asks=scorer.asks(),
            started=time.time(),
            flush=True,
        )

    def added(self, parent: Node, prefix: Tokens, children: Sequence[Node]) -> None:
        """Record new nodes."""
        texts = [self._text_after(prefix, child.tokens) for child in children]
        for child, text in zip(children, texts, strict=True):
            self._nodes[child] = self._count, text
            self._count += 1
        known: dict[str, Any] = {"first_prior": parent.children[0].prior} if parent in self._incomplete else {}
        self._incomplete.discard(parent)
        if any(math.isnan(child.prior) for child in children):
            self._incomplete.add(parent)
        self._write(
            "nodes",
            parent=self._nodes[parent][0],
            added=len(parent.children) > len(children) and not known,
            texts=texts,
            tokens=[child.tokens for child in children],
            priors=[None if math.isnan(child.prior) else child.prior for child in children],
            **known,
        )

    def visited(
        self, path: Sequence[Node], prefix: Tokens, rollout: Tokens, score: float, updates: Sequence[Update]
    ) -> None:
        """Record a simulation with what the evaluators saw."""
        response = (prefix + rollout)[len(self._prompt) :]
        text, continued = self._policy.text(response), self._text_after(prefix, rollout)
        whole = self._committed + "".join(self._nodes[node][1] for node in path[1:]) + continued
        evidence = self._scorer.seen(response)
        for entry in evidence:
            if entry.get("read") == text:
                del entry["read"]
        fields: dict[str, Any] = {
            "path": [self._nodes[node][0] for node in path],
            "rollout": continued,
            "score": score,
            "similar": [[self._nodes[node][0], weight] for node, weight in updates],
            "evidence": evidence,
        }
        if whole.strip() != text.strip():
            fields["text"] = text
        self._write("visit", **fields)

    def committed(self, child: Node, prefix: Tokens, simulations: int, finish: str | None) -> None:
        """Record a commit; what cannot be reached any more is forgotten."""
        number, text = self._nodes[child]
        self._committed += text
        self._nodes = {node: self._nodes[node] for node in _below(child)}
        self._incomplete &= self._nodes.keys()
        self._write("commit", node=number, simulations=simulations, finish=finish, flush=True)

    def ended(self, finish: str, answer: str, cost: dict[str, Any]) -> None:
        """Record the end."""
        self._write("end", finish=finish, answer=answer, cost=cost)

    def close(self) -> None:
        """Hand on what is waiting."""
        self._writer.flush()

    def _write(self, event: str, *, flush: bool = False, **fields: Any) -> None:
        t = round(time.perf_counter() - self._started, 4)
        self._writer.write({"event": event, "t": t, **fields}, flush=flush)

    def _text_after(self, prefix: Tokens, tokens: Tokens) -> str:
        """Return the text that ids add to a prefix; half a character is added by who completes it."""
        if not tokens:
            return ""
        before = prefix[-CONTEXT:]
        start, whole = (self._decode(ids).rstrip("\ufffd") for ids in (before, before + tokens))
        return whole[len(start) :] if whole.startswith(start) else self._decode(tokens)


def _below(root: Node) -> Iterator[Node]:
    """Yield a node and everything below it."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children
