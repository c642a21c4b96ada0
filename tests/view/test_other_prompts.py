"""The page when another prompt is opened, or a run continues: nothing stale is shown, nothing that is open closes."""

from __future__ import annotations

import json

import pytest
from support.judge_server import record, write_run
from viewing import commit_of, nodes_of, serving, until, visit_of, write_search

from rain.trace.record import trace_file

ARABIC = "\u0645\u0631\u062d\u0628\u0627 (1)."
FIRST = "First token sets (3)"
GAP = """each => {
  const text = new Range();
  text.selectNodeContents(each);
  return each.getBoundingClientRect().right - text.getBoundingClientRect().right;
}"""


def search(outdir, number):
    """Record a search that has not ended: of " yes", " no" and " maybe", the last was never tried."""
    about = {"id": f"r{number}", "question": f"Question {number}?"}
    events = nodes_of(" yes", " no", " maybe"), *map(visit_of, (1, 1, 2)), commit_of(1)
    return write_search(trace_file(outdir / "trace", f"r{number}"), *events, **about)


def add(outdir, line):
    with open(outdir / "res_0.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.fixture
def run(tmp_path):
    """Two answered prompts with recorded searches, one without, and one that failed after its first commit."""
    done = [record(number, f" yes {number}", "No.", f"Question {number}?") for number in range(3)]
    failed = {"id": "r3", "question": "Question 3?", "error": "no memory was left"}
    outdir = write_run(tmp_path / "out", "hh", [*done, failed])
    for number in (0, 1, 3):
        search(outdir, number)
    return outdir


def click(page, number, condition="app.trace"):
    page.click(f"#prompts li:nth-child({number + 1}) button")
    until(page, f"app.prompt.id === 'r{number}' && {condition}")


def test_a_prompt_is_shown_although_the_run_goes_on_while_its_events_are_on_the_way(run, visit):
    with serving(run) as url:
        page, held = visit(url), []
        page.route("**/events*", lambda route: held.append(route))
        for number in (3, 1):
            click(page, number, "!app.trace")
        assert page.text_content("#when") == page.text_content("#siblings") == "", "they are of the prompt before"
        add(run, record(4, "new", "new"))
        until(page, "app.index.prompts.length === 5")
        for route in reversed(held):  # the second comes too late: another prompt has been opened
            with page.expect_response("**/events*"):
                route.continue_()
            until(page, "app.trace && app.trace.head.id === 'r1' && app.trace.offset > 0")
        page.unroute("**/events*")
        click(page, 3)
        damaged = {"x-from": "0", "x-next": "9"}
        page.route("**/events*", lambda route: route.fulfill(body="no events", headers=damaged))
        click(page, 1, "document.getElementById('status').textContent.includes('cannot be shown')")
        assert page.text_content("#rain") == " yes 1" and page.text_content("#siblings") == ""
        assert page.evaluate("[app.boxes.length, location.hash]") == [0, "#prompt=r1"]


def test_what_is_open_stays_open_while_events_come_and_a_failure_is_said(tmp_path, visit):
    outdir = write_run(tmp_path / "out", "hh", [])
    writer = search(outdir, 0)
    with serving(outdir) as url:
        page = visit(url)
        assert page.text_content("#status").endswith("The search is still running.")
        page.click("#evidence details:nth-of-type(2) summary")
        writer.write(visit_of(2), flush=True)
        until(page, "app.trace.visits === 4")
        [opened] = page.locator("#evidence details[open]").all_text_contents()
        assert opened.startswith("#2 ") and "rolled out" in opened
        assert page.evaluate("document.activeElement.parentElement.open")
        add(outdir, {"id": "r0", "question": "Question 0?", "error": "no memory was left"})
        until(page, "document.getElementById('status').textContent.endsWith('The search failed.')")
        assert page.locator("#rain > *").all_text_contents() == [" yes", "failed: no memory was left"]


def test_nothing_of_a_prompt_stays_when_one_without_a_search_is_opened(run, view, visit):
    page = view(run)
    places = ("hits", "when", "siblings-title")
    assert [page.text_content(f"#{place}") for place in places] == ["", "simulation 3 of 3 · 1.0 s", FIRST]
    page.fill("#search", "o")
    assert page.text_content("#hits") == "1 hit", "what was never tried is not searched"
    page.focus("#prompts li:nth-child(3) button")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent").startswith("Question 2?")
    assert [page.text_content(f"#{place}") for place in places] == ["", "", "Siblings"]
    assert page.input_value("#slider") == "0" and page.evaluate("app.found") == []
    again = visit(page.url)
    assert again.text_content("#question") == "Question 2?"
    click(page, 1)
    assert page.text_content("#hits") == "1 hit" and page.evaluate("[...app.hits]") == [2]


def test_a_sibling_that_was_never_tried_leaves_the_tree_as_it_is(run, view):
    page = view(run)
    before = page.evaluate("[app.view, app.boxes]")
    page.click("#siblings tr:has-text('maybe')")
    assert page.evaluate("[app.view, app.boxes]") == before and page.evaluate("app.selected") == 3


def test_a_phone_held_sideways_shows_more_than_the_tree(run, view):
    page = view(run)
    for width, height, tree in ((667, 375, 206), (375, 900, 384)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.getElementById('tree').clientHeight") == tree


def test_a_method_that_does_not_search_is_named_and_has_no_tree(run, view, capsys):
    config = json.loads((run / "config.json").read_text())
    config["aligner"]["method"] = {"method": "best-of-n"}
    (run / "config.json").write_text(json.dumps(config))
    for file in (run / "trace").iterdir():
        file.unlink()
    page, said = view(run), "best-of-n does not search: there is no tree"
    assert page.text_content("article h2") == "With best-of-n"
    assert said in page.text_content("#status") and said in capsys.readouterr().out
    assert "recorded" not in page.text_content("#prompts")


def test_a_text_from_right_to_left_begins_at_the_right(tmp_path, view):
    page = view(write_run(tmp_path / "out", "hh", [record(0, ARABIC, ARABIC, ARABIC)]))
    for place in ("#question", "#prompts .ask", "#rain", "#plain"):
        assert 0 <= page.locator(place).evaluate(GAP) < 20, place
