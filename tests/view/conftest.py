"""Pages in a browser without a window."""

from __future__ import annotations

import pytest


@pytest.fixture
def visit(browser):
    """A function that opens a page and waits until it is ready; nothing may be asked of the network, nor fail."""
    problems, pages = [], []

    def open_page(address, **options):
        page = browser.new_page(**{"viewport": {"width": 1400, "height": 800}, **options})
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        own = address.split("#")[0].rpartition("/")[0]
        page.on("request", lambda asked: asked.url.startswith((own, "blob:")) or problems.append(asked.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []
