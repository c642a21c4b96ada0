"""The page in a browser without a window: a question is typed, and two answers appear with their prices."""

from __future__ import annotations

import asyncio
import re

import httpx
from support.toy_server import KEY

from rain.serve.app import make_app
from rain.serve.config import ServeConfig
from rain.serve.gate import Gate
from rain.serve.page import page_response
from rain.serve.service import Service

COUNT_COMMITS = """() => {
  const rain = document.getElementById("rain");
  window.counts = [];
  new MutationObserver(() => counts.push(rain.children.length)).observe(rain, {childList: true});
}"""


def test_the_page_is_whole_and_allows_nothing_else(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert page.text == page_response().body.decode()
    assert not re.search(r"https?://|innerHTML|insertAdjacent|document\.write|\bsrc=|\bhref=|\bon[a-z]+=", page.text)


def test_the_page_is_for_this_machine_unless_it_is_asked_for(tmp_path):
    async def status(**settings):
        service = Service(ServeConfig(**settings), "", print)
        there = httpx.ASGITransport(Gate(make_app(service), service))
        async with httpx.AsyncClient(transport=there, base_url="http://127.0.0.1") as client:
            return (await client.get("/")).status_code

    (tmp_path / "keys").write_text(f"anna {KEY}")
    far = {"host": "0.0.0.0", "api_key_file": str(tmp_path / "keys")}
    assert [asyncio.run(status(**kind)) for kind in ({}, {**far, "page": True}, far)] == [200, 200, 404]


def test_commits_appear_one_after_the_other_beside_the_plain_answer(new_page, server, ask, tmp_path):
    page = new_page(viewport={"width": 1000, "height": 700})
    page.goto(server.url)
    page.evaluate(COUNT_COMMITS)
    page.fill("#question", "<b>Why</b> SLOW?")  # and no limit: that of the server is 60 seconds
    page.click("#ask")
    page.wait_for_selector("#rain span")
    page.wait_for_selector("#ask:enabled")
    counts = page.evaluate("counts")
    reply = ask("<b>Why</b> SLOW?").json()
    assert page.text_content("#rain") == reply["choices"][0]["message"]["content"]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2, "one after the other"
    assert page.text_content("#plain") and page.locator("#plain span").count() < page.locator("#rain span").count()
    price = page.text_content("#rain-price")
    assert f"simulations{reply['rain']['simulations']}" in price and "seconds" in price
    assert "tokens computed" in page.text_content("#plain-price")
    page.screenshot(path=tmp_path / "page.png")


def test_a_refusal_and_hostile_text_are_shown_as_text(browser, guarded_server):
    page = browser.new_page()
    page.goto(guarded_server.url)
    page.fill("#question", "Why?")
    page.click("#ask")
    assert "key" in page.text_content("#rain [role=alert]")
    text = "<img src=x onerror=alert(1)>"
    page.evaluate("""text => show("rain", {choices: [{delta: {content: text}}], rain: {committed: []}})""", text)
    assert text in page.text_content("#rain") and page.locator("img").count() == 0
    page.close()
