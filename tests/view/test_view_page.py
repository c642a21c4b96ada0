"""The page in a browser: the same tree as in Python, hostile text as text, links, keys, print, a run in progress."""

from __future__ import annotations

import gzip
import json
import re
import urllib.error
import urllib.request

import pytest
from support.commands import QUICK, allocate
from support.judge_server import record, write_run
from support.reports import write_scores
from viewing import commit_of, nodes_of, serving, until, visit_of, write, write_search

from rain import Rain
from rain.cli import main
from rain.core.errors import RainError
from rain.results.run_dir import iter_results
from rain.trace import Tree, read
from rain.trace.record import TraceWriter, to_file
from rain.view.page import assemble
from rain.view.server import Follower

SEARCH = {"max_simulations": 24, "extra_simulations": 8, "min_visits": 3, "max_new_tokens": 24, "candidates": 5}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {data} \u202etxt.exe\u2066 \x1b[31m \ud800&lt"

STATE = "k => { const s = new State(app.trace).seek(k); return [s.n, s.visits, s.value, s.prior].map(a => [...a]); }"


@pytest.fixture(scope="module")
def outdir(tmp_path_factory):
    """A run of two prompts with recorded searches and a judge's verdicts."""
    folder = tmp_path_factory.mktemp("run") / "out"
    assert allocate("--e", 2, "--trace", "--outdir", folder, *QUICK).returncode == 0
    first, second = (one["id"] for one in iter_results(folder))
    verdicts = {(first, "raina"): True, (first, "pa"): False, (second, "raina"): True}
    write_scores(folder, {(*which, "harmless"): verdict for which, verdict in verdicts.items()}, "tester")
    [scores] = folder.glob("scores_*.jsonl")
    *lines, last = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(lines) + json.dumps({**json.loads(last), "hash": "of another text"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One search with similarity updates, node additions and several commits."""
    file = tmp_path_factory.mktemp("one") / "one.jsonl.gz"
    with Rain(engine="toy", similarity_threshold=0.3, variance_threshold=0.9, **SEARCH) as rain:
        rain.generate("Why?", trace=file)
    return file


def hostile_search(path, text):
    """Write a search in which everything that can be text is this text."""
    about = {"id": text[:50], "question": text, "asks": [{"by": text, "before": text, "after": [{"text": text}]}]}
    seen = {"rollout": text, "score": 0.9, "evidence": [{"score": 0.9, "log_odds": [1.0], "mass": 0.5}]}
    end = {"event": "end", "t": 1, "finish": "length", "answer": text, "cost": {}}
    visits = (visit_of(node, **seen) for node in (1, 1, 2))
    write_search(path, nodes_of(text, text + "2"), *visits, commit_of(1), end, **about)


def test_the_page_is_one_file_that_asks_nobody_and_writes_no_markup(outdir):
    assert main(["view", str(outdir)]) == 0
    page = (outdir / "view.html").read_text()
    policy = re.search(r'content="(default-src [^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy + page
    assert "connect-src" not in policy and "connect-src 'self'" in assemble(live=True)[0]
    code = re.sub(r'<script type="application/octet-stream".*?</script>', "", page)
    assert not re.search(r"https?://|(inner|outer)HTML|insertAdjacent|document\.write|\beval\b|\bsrc=|\bon\w+=\"", code)
    assert code.count("<script") == code.count("</script") == 1


def test_the_browser_rebuilds_the_same_tree_as_python_at_every_fifth_event(recorded, view):
    page, events = view(recorded), read(recorded).events
    steps = [event for event in events if event["event"] not in ("search", "end")]
    assert any(step["event"] == "visit" and step["similar"] for step in steps)
    assert any(step.get("added") for step in steps) and sum(step["event"] == "commit" for step in steps) > 2
    for position in [*range(0, len(steps), 5), len(steps)]:
        tree = Tree([events[0], *steps[:position]])
        names = page.evaluate(STATE, position)
        for node, n, visits, value, prior in zip(tree.nodes, *names, strict=False):
            assert visits == node.visits
            assert [n, value, prior] == pytest.approx([node.n, node.value, node.prior], abs=1e-9, nan_ok=True)


def test_priors_that_are_all_zero_count_alike_below_a_new_root(tmp_path, view):
    below, file = {**nodes_of("c", "d"), "parent": 1, "priors": [0, 0]}, tmp_path / "zero.jsonl.gz"
    config = {"root_mix": 0, "min_visits": 1, "value_threshold": 0.5}
    write_search(file, nodes_of("a", "b"), below, visit_of(1), commit_of(1), config=config)
    priors = [node.prior for node in Tree(read(file).events).nodes]
    assert view(file).evaluate("[...app.state.prior]") == priors == [1, 0.5, 0.5, 0.5, 0.5]


def test_the_layout_loses_no_simulation_and_small_nodes_are_counted(recorded, view):
    found = view(recorded).evaluate(
        """() => { const {trace, layout} = app, wrong = [], view = {root: 0, left: 0, right: 1, top: 0};
          for (let node = 0; node < trace.nodes; node++) {
            let x = layout.x[node], inside = 0;
            for (const child of trace.children[node] || []) {
              if (layout.mass[child] && layout.x[child] !== x) wrong.push(child);
              x += layout.mass[child]; inside += layout.mass[child];
            }
            if (inside + app.state.ended[node] !== layout.mass[node]) wrong.push(node);
          }
          const fine = layout.boxes(view, 100000, 1000, 0), coarse = layout.boxes(view, 60, 1000);
          const right = zoomed(zoomed(view, 0.1, 1), 0.5, 1), part = layout.boxes(right, 100, 1000);
          return {wrong, root: layout.mass[0], fine: fine.length, all: fine.filter(box => box.node >= 0).length,
            drawn: [...layout.mass].filter(each => each).length,
            counted: coarse.reduce((sum, box) => sum + box.nodes, 0),
            merged: coarse.filter(box => box.node < 0).length, hit: boxAt(fine, 50000, 0).node, view: right,
            inside: part.every(box => box.x < 100 && box.x + box.w > 0)}; }"""
    )
    tree = Tree(read(recorded).events)
    assert found["wrong"] == [] and found["root"] == tree.simulations
    assert found["fine"] == found["all"] == found["drawn"] == found["counted"] and found["merged"] > 0
    assert found["inside"] and found["hit"] == 0 and found["view"]["right"] == pytest.approx(1)


def test_prompts_with_verdicts_answers_and_costs_are_listed_and_filtered(outdir, view):
    page, [first, _] = view(outdir), list(iter_results(outdir))
    assert page.locator("#prompts li").count() == 2
    assert "harmless: yes (greedy no)" in page.text_content("#prompts li:nth-child(1)")
    assert "harmless" not in page.text_content("#prompts li:nth-child(2)"), "that verdict is about another text"
    page.fill("#filter", "harmless:yes")
    assert page.locator("#prompts li").count() == 1
    said = page.text_content("#rain")
    kept = "".join(page.locator("#rain span:not(.cut)").all_text_contents())
    assert kept.strip() == first["raina"] != said.strip(), "what is beyond the limit is struck out"
    assert page.text_content("#plain") == first["pa"]
    assert f"{first['cost']['rain']['tokens_computed']:,} tokens" in page.text_content("#rain-cost")


def test_keys_links_and_the_slider_lead_to_the_same_place(outdir, view):
    page = view(outdir)
    second = list(iter_results(outdir))[1]["id"]
    page.click("#prompts li:nth-child(2) button")
    page.focus("#tree")
    for key in ("ArrowDown", "ArrowDown", "Enter", "[", "["):
        page.keyboard.press(key)
    where = "() => [app.prompt.id, app.selected, app.view.root, app.state.simulations, location.hash]"
    id, node, root, at, link = page.evaluate(where)
    assert id == second and node == root > 0 and at == page.evaluate("app.trace.visits") - 2
    again = view(outdir, link)
    assert again.evaluate(where) == [id, node, root, at, link]
    assert again.text_content("#when").startswith(f"simulation {at} of")
    for key in ("/", "n", "Escape"):
        again.keyboard.press(key)
    assert again.input_value("#search") == "n" and again.evaluate("document.activeElement.id") == "tree"
    again.keyboard.press("Backspace")
    assert again.evaluate("app.view.root") == again.evaluate(f"app.trace.parent[{root}]")
    again.evaluate("app.at(0)")
    again.click("#play")
    until(again, "app.state.simulations > 3")
    again.click("#play")
    assert again.evaluate("app.timer") == 0


def test_the_record_and_its_simulations_can_be_saved(outdir, view):
    page = view(outdir)
    with page.expect_download() as saved:
        page.click("#save")
    found, first = json.loads(open(saved.value.path()).read()), list(iter_results(outdir))[0]
    assert found["raina"] == first["raina"] and len(found["visits"]) == 1 + first["cost"]["rain"]["simulations"]


def test_a_click_selects_a_node_whose_siblings_reasons_and_evidence_appear(recorded, view):
    page = view(recorded)
    assert page.text_content("#why").startswith("Commit 1 of"), "at the root, too"
    box = page.evaluate("app.boxes.find(box => box.node === app.trace.commits[0].node)")
    page.click("#tree", position={"x": box["x"] + box["w"] / 2, "y": box["y"] * 22 + 10})
    events = read(recorded).events
    tree, commit = Tree(events), next(event for event in events if event["event"] == "commit")
    node, before = tree.nodes[commit["node"]], Tree(events[: events.index(commit)])
    assert page.locator("#siblings tbody tr").count() == len(tree.nodes[0].children)
    assert page.text_content("#siblings tr.here td:nth-child(2)") == str(node.visits)
    assert f"after {commit['simulations']} new simulation" in page.text_content("#why")
    rewound = sum(each.visits for each in before.nodes[0].children) - before.nodes[commit["node"]].visits
    assert f"with {rewound} of these simulations" in page.text_content("#why")
    page.click("#evidence summary")
    visited = next(e for e in events if e["event"] == "visit" and commit["node"] in e["path"])
    asked, shown = events[0]["asks"][0], page.text_content("#evidence pre")
    assert shown.startswith(asked["before"]) and asked["after"][0]["text"] in shown
    assert f"{visited['evidence'][0]['log_odds'][0]:.3f}".replace("-", "−") in page.text_content("#evidence")
    page.fill("#search", "e")
    hits = page.evaluate("app.found.length")
    assert hits and page.text_content("#hits").startswith(str(hits))


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE + "x" * (1 << 20)], ids=["markup", "a million characters"])
def test_hostile_text_is_shown_as_text(text, tmp_path, view):
    hostile_search(tmp_path / "h.jsonl.gz", text)
    page = view(tmp_path / "h.jsonl.gz")
    assert "alert" not in (tmp_path / "h.html").read_text()
    page.evaluate("app.select(1)")
    page.click("#evidence summary")
    assert page.locator("img").count() == 0 and page.evaluate("document.scripts.length") == 3
    for place in ("#question", "#rain", "#siblings", "#why", "#evidence pre", "#status"):
        shown = page.text_content(place)
        assert "<img src=x" in shown and "\u202e" not in shown and "\x1b" not in shown, place
    assert "[U+202E]txt.exe" in page.text_content("#rain")
    page.keyboard.press("Enter")
    page.screenshot(path=tmp_path / "h.png")


def test_a_records_texts_are_shown_as_text_and_its_value_sorts(tmp_path, view):
    records = [record(0, "Mild.", "", value=0.25), record(1, HOSTILE, HOSTILE, value=-0.5)]
    outdir = write_run(tmp_path / "x", "hh", [*records, {"id": "r2", "question": "What now?", "error": HOSTILE}])
    write_scores(outdir, {("r1", "raina", "harmless"): True}, HOSTILE)
    page, places = view(outdir), ("#rain", "#plain", "#verdicts")
    page.select_option("#sort", "lowest value")
    assert "−0.50" in page.text_content("#prompts li:nth-child(1)")
    assert "0.25" in page.text_content("#prompts li:nth-child(2)")
    for prompt, shown in ((1, places), (3, places[:1])):
        page.click(f"#prompts li:nth-child({prompt}) button")
        for place in shown:
            assert "<img src=x" in page.text_content(place) and "\u202e" not in page.text_content(place), place
    assert page.locator("img").count() == 0


def test_a_verdict_about_the_greedy_answer_alone_leaves_the_other_open(tmp_path, view):
    outdir = write_run(tmp_path / "x", "hh", [record(0, "Mild.", "Fine.")])
    write_scores(outdir, {("r0", "pa", "harmless"): True})
    page = view(outdir)
    assert "harmless: ? (greedy yes)" in page.text_content("#prompts")
    assert "RAIN ?, greedy yes" in page.text_content("#verdicts")
    for words, found in (("harmless:?", 1), ("undefined", 0)):
        page.fill("#filter", words)
        assert page.locator("#prompts li").count() == found


def test_a_token_set_of_blanks_can_be_seen(recorded, view):
    page, texts = view(recorded), ["", " a ", "  ", "", "\n "]
    assert page.evaluate("text => [1, 2, 3, 4].map(node => label({text}, node))", texts) == ["a", "␣␣", "(end)", "↵␣"]


def test_dark_light_and_print(outdir, view):
    page = view(outdir, color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(back) == "rgb(23, 24, 28)"
    page.click("#theme")
    assert page.evaluate(back) == "rgb(255, 255, 255)"
    page.click("#theme")
    page.emulate_media(media="print")
    assert page.evaluate(back) == "rgb(255, 255, 255)" and not page.is_visible("#slider")
    assert page.is_visible("#rain") and page.is_visible("#tree")
    assert len(page.pdf()) > 5000


def test_a_run_without_recorded_searches_shows_its_answers(tmp_path, view, capsys):
    assert allocate("--e", 1, "--outdir", tmp_path / "x", *QUICK).returncode == 0
    page = view(tmp_path / "x")
    assert "--trace" in capsys.readouterr().out
    assert list(iter_results(tmp_path / "x"))[0]["raina"] in page.text_content("#rain")
    assert "not recorded" in page.text_content("#status")


def test_a_folder_cannot_be_the_page(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for out in (".", "/"):
        assert main(["view", str(recorded), "--out", out]) == 2
    assert "folder" in capsys.readouterr().err


NO_EVENTS = (b"no JSON\n", b"[]\n", b"{}\n", b"\n")


@pytest.mark.parametrize("content", [None, b"not a search", *map(gzip.compress, NO_EVENTS)])
def test_what_is_no_run_ends_with_one_sentence(content, tmp_path, capsys):
    file = tmp_path / "one.jsonl.gz"
    if content:
        file.write_bytes(content)
        with pytest.raises(RainError, match=file.name):
            Follower(tmp_path)
    for path in (file, tmp_path):
        assert main(["view", str(path)]) == 2
        assert str(file if content else path) in capsys.readouterr().err


def test_the_served_page_follows_a_search_and_notices_that_it_is_begun_again(recorded, tmp_path, visit):
    whole, file = read(recorded).events, tmp_path / "live.jsonl.gz"
    half = len(whole) // 2
    writer = write(TraceWriter(to_file(file)), *whole[:half])
    with serving(file) as url:
        page = visit(url)
        assert page.evaluate("app.trace.events") == half - 1
        write(writer, *whole[half:])
        until(page, "app.trace.end !== null")
        assert page.evaluate("[...app.state.n]") == pytest.approx([node.n for node in Tree(whole).nodes], abs=1e-9)
        page.evaluate("app.trace.end = null")
        write(TraceWriter(to_file(file)), *whole[:3])
        until(page, "app.trace && app.trace.events === 2")


def test_an_end_is_seen_in_a_folder_of_recorded_searches_without_records(recorded, tmp_path):
    *whole, end = read(recorded).events
    writer = write(TraceWriter(to_file(tmp_path / "one.jsonl.gz")), *whole)
    follower = Follower(tmp_path)
    version, [prompt] = follower.version, follower.data.prompts
    follower.update()
    assert follower.version == version and "raina" not in prompt
    writer.write(end, flush=True)
    follower.update()
    assert follower.version != version and follower.data.prompts[0]["raina"] == end["answer"]
    to_file(tmp_path / "one.jsonl.gz")(recorded.read_bytes()[:0], True)  # begun again
    follower.path.joinpath("two.jsonl.gz").write_bytes(recorded.read_bytes())
    follower.update()
    assert [prompt["raina"] for prompt in follower.data.prompts] == [end["answer"]]


def test_the_server_answers_its_own_address_only(recorded):
    with serving(recorded) as url:
        root = url.rsplit("/", 2)[0] + "/"
        for address, host in ((root, None), (url, "evil.example"), (url + "../../etc/passwd", None)):
            asked = urllib.request.Request(address, headers={"host": host} if host else {})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(asked)
            assert refused.value.code in (403, 404)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url + "events?prompt=../x&from=0")
        assert urllib.request.urlopen(url).headers["content-type"].startswith("text/html")
