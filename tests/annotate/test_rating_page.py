"""A rater's page in a browser without a window: what is pressed is what is scored."""

from __future__ import annotations

import json

import pytest
from support.judge_server import record, write_run
from support.raters import page_data, pairs_run, study

from rain.cli import main

ARABIC = "\u0645\u0631\u062d\u0628\u0627 (1)."


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


@pytest.fixture
def opened(new_page, folder):
    """Return a function that makes a study of a run and opens the page of its first rater."""

    def open_page(run, viewport=None, **options):
        study(folder, run, **options)
        page = new_page(**({"viewport": viewport} if viewport else {}))
        page.goto((folder / "rater_1.html").as_uri())
        return page

    return open_page


def reload(page):
    """Load the page again, until it finds what was kept: the browser stores that in another process, a little later."""
    for _ in range(20):
        page.reload()
        if page.text_content("#count"):
            return
        page.wait_for_timeout(100)


def save(page, path):
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == path.name
    download.value.save_as(path)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_session_with_keys_undo_and_a_reload_in_the_middle_is_scored_as_it_was_meant(opened, folder, tmp_path):
    pytest.importorskip("krippendorff")
    page = opened(pairs_run(tmp_path / "run", 10), repeat=0.2)
    items = page_data(folder / "rater_1.html")["items"]
    wanted = {f"Question {i}?": verdict for i, verdict in enumerate("aaaaaabb0d")}  # better text; 0: tie, d: both bad

    def key(item):
        verdict = wanted[item["question"]]
        return {"0": "0", "d": "b"}.get(verdict, "1" if item["texts"][0][0] == verdict else "2")

    page.keyboard.press("1")  # nothing is rated before the beginning
    page.keyboard.press("Enter")
    for place, item in enumerate(items):
        assert page.text_content("#count") == f"{place} of 12"
        assert page.text_content("#question") == item["question"]
        assert page.locator("section .text").all_text_contents() == item["texts"]
        if place == 3:  # a mistake, taken back; its choice is marked
            page.keyboard.press("b")
            page.keyboard.press("U")
            assert page.locator("[aria-pressed=true]").get_attribute("data-verdict") == "bad"
        if place == 6:
            reload(page)
        page.keyboard.press("x")  # means nothing
        if place == 7:
            page.locator("#choices button", has_text=key(item)).first.click()
        else:
            page.keyboard.press(key(item).upper())
    assert page.is_visible("#end") and page.is_hidden("#item")
    page.keyboard.press("1")  # nothing is left to rate
    head, *rows, digest = save(page, folder / "rater_1.jsonl")
    assert [row["id"] for row in rows] == [item["id"] for item in items] and len(digest["digest"]) == 64
    assert all(0 <= row["ms"] < 60_000 for row in rows) and sum(row["ms"] for row in rows) > 0
    assert page.input_value("#copy") == (folder / "rater_1.jsonl").read_text()
    assert main(["annotate", "score", str(folder / "rater_1.jsonl")]) == 0
    report = json.loads((folder / "scores" / "score.json").read_text())
    [pair], [rater] = report["pairs"], report["by_rater"]
    assert [pair[name] for name in ("first", "wins", "losses", "ties", "both_bad")] == ["RAIN", 6, 2, 2, 1]
    assert rater["rated"] == "12/12" and rater["same_when_repeated"]["rate"] == 1


def test_time_counts_while_an_item_is_seen_and_goes_on_after_undo(opened, folder, tmp_path):
    page = opened(pairs_run(tmp_path / "run", 3))
    page.evaluate("now = 1000; performance.now = () => now")
    page.click("#begin")
    hide = """hidden => { Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
      document.dispatchEvent(new Event("visibilitychange")); }"""
    for milliseconds, action in ((2000, None), (5000, True), (7000, False)):
        page.evaluate("by => now += by", milliseconds)
        if action is not None:
            page.evaluate(hide, action)
    page.evaluate("now += 300")
    page.keyboard.press("1")  # 2000 + 5000, hidden for 7000, 300 more
    page.keyboard.press("u")
    page.evaluate("now += 20")
    page.keyboard.press("2")
    _, row, _ = save(page, folder / "rater_1.jsonl")
    assert (row["verdict"], row["ms"]) == ("second", 7320)


@pytest.mark.parametrize("size", [{"width": 390, "height": 844}, {"width": 1100, "height": 800}])
def test_hostile_and_long_text_is_text_and_all_buttons_are_in_reach(opened, tmp_path, size):
    hostile = "</script><img src=x onerror=alert(1)><!-- \u202e \ud800 & " + "W" * 5000
    page = opened(write_run(tmp_path / "run", "hh", [record(0, hostile, "<b>B.</b>", "<i>Q</i>?")]), size)
    page.click("#begin")
    texts = page.locator("section .text").all_text_contents()
    assert any(text.startswith("</script><img src=x") for text in texts) and "<b>B.</b> …" in texts
    assert page.locator("main img, main b, main i").count() == 0 and page.text_content("#question") == "<i>Q</i>?"
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    for button in page.locator("#choices button").all():
        box = button.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= size["height"] and box["height"] >= 40


def test_a_text_from_right_to_left_begins_at_the_right(opened, tmp_path):
    page = opened(write_run(tmp_path / "run", "hh", [record(0, ARABIC, ARABIC + " 2", ARABIC)]))
    page.click("#begin")
    gaps = page.locator("#item .text").evaluate_all("""all => all.map(each => {
      const text = new Range();
      text.selectNodeContents(each);
      return each.getBoundingClientRect().right - text.getBoundingClientRect().right;
    })""")
    assert len(gaps) == 3 and all(0 <= gap < 20 for gap in gaps)


def test_single_answers_have_three_choices_and_raters_of_one_browser_do_not_mix(opened, folder, tmp_path):
    page = opened(pairs_run(tmp_path / "run", 2), question="harmless", raters=2)
    page.click("#begin")
    assert page.locator("#choices button").all_text_contents() == ["1harmless", "2harmful", "0cannot tell"]
    page.keyboard.press("b")
    for choice in "120":
        page.keyboard.press(choice)
    page.goto((folder / "rater_2.html").as_uri())
    assert page.is_visible("#start")
    page.goto((folder / "rater_1.html").as_uri())
    rows = save(page, folder / "rater_1.jsonl")[1:-1]
    assert [row["verdict"] for row in rows] == ["yes", "no", "unsure"]


def test_a_browser_that_keeps_nothing_says_so(opened, tmp_path):
    page = opened(pairs_run(tmp_path / "run", 2))
    page.evaluate("void (Storage.prototype.setItem = () => { throw new Error('full'); })")
    page.click("#begin")
    page.keyboard.press("1")
    assert "save the file" in page.text_content("[role=alert]") and page.text_content("#count") == "1 of 2"
