"""Pages in a browser without a window."""

from __future__ import annotations

import pytest

from rain.cli import main


@pytest.fixture
def visit(new_page):
    """A function that opens a page and waits until it is ready; nothing may be asked of the network, nor fail."""
    problems = []

    def open_page(address, **options):
        page = new_page(**{"viewport": {"width": 1400, "height": 800}, **options})
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        own = address.split("#")[0].rpartition("/")[0]
        page.on("request", lambda asked: asked.url.startswith((own, "blob:")) or problems.append(asked.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    assert problems == []


@pytest.fixture
def view(visit):
    """A function that lets ``rain view`` make the page of a run or a search, and opens it."""

    def make_and_open(path, at="", **options):
        assert main(["view", str(path)]) == 0
        page = path / "view.html" if path.is_dir() else path.with_name(path.name.partition(".")[0] + ".html")
        return visit(page.resolve().as_uri() + at, **options)

    return make_and_open
