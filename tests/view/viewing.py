"""What the tests of the page share: searches that are made up, waiting in the page, and its server."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Thread

from rain.trace.record import FORMAT, TraceWriter, to_file
from rain.view.server import make_server


def write_search(path, *events, **about):
    """Write a search with these events, which may continue; return what writes it."""
    config = {"root_mix": 0.25, "min_visits": 1, "value_threshold": 0.5}
    first = {"event": "search", "t": 0, "format": FORMAT, "id": "r0", "question": "Why?", "asks": [], "config": config}
    return write(TraceWriter(to_file(path)), {**first, **about}, *events)


def write(writer, *events):
    for event in events:
        writer.write(event)
    writer.flush()
    return writer


def nodes_of(*texts):
    """Return the event of the first nodes."""
    tokens, priors = [[i] for i, _ in enumerate(texts)], [1 / len(texts)] * len(texts)
    return {"event": "nodes", "t": 0, "parent": 0, "texts": texts, "tokens": tokens, "priors": priors, "added": False}


def visit_of(node, **fields):
    seen = {"rollout": "", "score": 0.5, "similar": [], "evidence": [], **fields}
    return {"event": "visit", "t": 1, "path": [0, node], **seen}


def commit_of(node):
    return {"event": "commit", "t": 1, "node": node, "simulations": 3, "finish": None}


def until(page, condition):
    """Wait in the page: its policy forbids what Playwright's own waiting needs."""
    loop = f"for (let i = 0; i < 1500 && !({condition}); i++) await new Promise(done => setTimeout(done, 20));"
    assert page.evaluate(f"async () => {{ {loop} return {condition}; }}")


@contextmanager
def serving(path):
    server, url = make_server(path, 0)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
