"""What the tests of the page share: its address, waiting in it, and its server."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Thread

from rain.view.server import make_server


def address(path):
    return path.resolve().as_uri()


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
