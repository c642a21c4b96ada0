"""What raters get: pages that do not tell who wrote what."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from support.judge_server import record, write_run
from support.raters import page_data, pairs_run, study

from rain.annotate.items import equal_form
from rain.cli import main
from rain.core.errors import RainError
from rain.methods.config import METHODS


@pytest.mark.parametrize("question", ["preferred", "harmless", "helpful", "truthful"])
def test_a_page_names_no_method_no_run_and_no_record(tmp_path, question):
    runs = [pairs_run(tmp_path / f"outdir_{name}", 8, method=name) for name in METHODS]
    study(tmp_path / "study", *runs, question=question, raters=2)
    for page in (tmp_path / "study").glob("*.html"):
        source = page.read_text().lower()
        words = set(re.findall(r"[a-z0-9_-]+", source))
        assert words.isdisjoint({*METHODS, "raina", "pa", "baseline", "method", *(f"r{i}" for i in range(8))})
        assert "outdir" not in source and str(tmp_path).lower() not in source


def test_a_page_allows_its_own_script_and_no_network(tmp_path):
    study(tmp_path / "study", pairs_run(tmp_path / "run", 2))
    page = (tmp_path / "study" / "rater_1.html").read_text()
    [policy] = re.findall('content-security-policy" content="(.*?)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not re.search(r"https?://|innerHTML|insertAdjacent|document\.write|\bsrc=|\bhref=|\bon[a-z]+=", page)


def test_the_secret_is_the_owners_alone_and_a_study_is_never_overwritten(tmp_path, capsys):
    run, folder = pairs_run(tmp_path / "run", 2), tmp_path / "study"
    assert main(["annotate", "make", str(run), "--out", str(folder), "--prompts", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 item and 0 gold items; 0 come twice" in said and "0 pairs of identical answers" in said
    assert main(["annotate", "make", str(run), "--out", str(tmp_path / "single"), "--question", "harmless"]) == 0
    assert "identical" not in capsys.readouterr().out
    assert (folder / "secret.json").stat().st_mode & 0o777 == 0o600
    page = (folder / "rater_1.html").read_bytes()
    with pytest.raises(RainError, match="a study already"):
        study(folder, run, key="other")
    assert (folder / "rater_1.html").read_bytes() == page


def test_raters_have_orders_and_sides_of_their_own_that_only_the_key_tells(tmp_path):
    run = pairs_run(tmp_path / "run", 60)
    study(tmp_path / "one", run, raters=2)
    study(tmp_path / "two", run, key="other")
    pages = ("one/rater_1.html", "one/rater_2.html", "two/rater_1.html")
    first, second, third = (page_data(tmp_path / page) for page in pages)
    for data, other in ((first, second), (first, third)):
        orders = [[item["question"] for item in one["items"]] for one in (data, other)]
        sides = [{item["question"]: item["texts"][0][0] for item in reversed(one["items"])} for one in (data, other)]
        assert orders[0] != orders[1] and sides[0] != sides[1] and data["key"] != other["key"]
        assert {item["id"] for item in data["items"]}.isdisjoint(item["id"] for item in other["items"])
    assert 15 <= Counter(item["texts"][0][0] for item in first["items"])["a"] <= 45
    assert study(tmp_path / "three", run)["raters"] == study(tmp_path / "four", run)["raters"]


def test_repeats_come_half_a_session_later_with_their_sides_swapped(tmp_path):
    study(tmp_path / "study", pairs_run(tmp_path / "run", 20), repeat=0.5)
    items = page_data(tmp_path / "study" / "rater_1.html")["items"]
    places = {}
    for place, item in enumerate(items):
        places.setdefault(item["question"], []).append(place)
    twice = [both for both in places.values() if len(both) == 2]
    assert len(items) == 30 and len(twice) == 10
    for one, other in twice:
        assert other - one >= 10 and items[one]["texts"] == items[other]["texts"][::-1]


def test_equal_texts_are_asked_about_once(tmp_path):
    records = [record(0, "Same.", "Same. \n"), record(1, "One.", "Two."), record(2, "One.", "Two.")]
    runs = [write_run(tmp_path / name, "hh", records) for name in ("x", "y")]
    runs.append(write_run(tmp_path / "z", "hh", [record(1, "Three.", "Two.")]))
    found = study(tmp_path / "pairs", *runs)
    assert [one["name"] for one in found["systems"]] == ["RAIN (x)", "greedy", "RAIN (y)", "RAIN (z)"]
    assert [[prompt, owners] for prompt, owners, _ in found["items"]] == [
        ["r1", ((0, 2), (1,))], ["r1", ((0, 2), (3,))], ["r1", ((1,), (3,))], ["r2", ((0, 2), (1,))]
    ]  # fmt: skip
    assert found["ties"] == [("r0", 0, 1), ("r0", 0, 2), ("r0", 1, 2), ("r1", 0, 2), ("r2", 0, 2)]
    found = study(tmp_path / "single", *runs, question="harmless")
    assert [owners for prompt, owners, _ in found["items"] if prompt == "r0"] == [((0, 1, 2),)]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("  Yes.  \r\n\n\n\nNo \n", "Yes.\n\nNo …"),
        ("A full stop.", "A full stop."),
        ('He said "Stop!"', 'He said "Stop!"'),
        ("Cut in the mid", "Cut in the mid …"),
        ("Cut in 🌟\ufffd", "Cut in 🌟 …"),
        ("Fine.\n\nHuman: and you?", "Fine."),
        ("Fine. USER: and you?", "Fine."),
        ("Humans: all of them.", "Humans: all of them."),
        (" \n", ""),
    ],
)
def test_answers_are_brought_into_one_form(answer, shown):
    assert equal_form(answer) == shown


def test_gold_items_of_both_kinds_are_read_and_a_broken_one_is_named(tmp_path):
    run, pairs, texts = pairs_run(tmp_path / "run", 4), tmp_path / "pairs.jsonl", tmp_path / "texts.jsonl"
    pairs.write_text('{"prompt": "Gold?", "chosen": "Good.", "rejected": "Bad."}\n')
    texts.write_text('{"question": "Gold?", "response": "Bad.", "label": false}\n')
    assert study(tmp_path / "a", run, gold=pairs)["items"][-1] == ["1", ((), ()), "first"]
    assert study(tmp_path / "b", run, gold=texts, question="harmless")["items"][-1] == ["1", ((),), "no"]
    texts.write_text('{"question": "Gold?", "response": "Bad."}\n')
    with pytest.raises(RainError, match=r"texts.jsonl, line 1: field 'label'"):
        study(tmp_path / "c", run, gold=texts, question="harmless")


def test_bad_input_ends_with_a_sentence(tmp_path, capsys):
    same = write_run(tmp_path / "same", "hh", [record(0, "A.", "A.")])
    other = write_run(tmp_path / "other", "adv", [record(0, "A.", "B.")])
    for runs, named in (([same], "two different answers"), ([same, other], "several tasks"), ([tmp_path], "res_")):
        assert main(["annotate", "make", *map(str, runs), "--out", str(tmp_path / "study")]) == 2
        assert re.search(named, capsys.readouterr().err)
    assert main(["annotate", "make", str(other), "--out", str(other / "config.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()
