"""What ratings say: by hand, and of panels whose agreement is known."""

from __future__ import annotations

import json
import re
from math import exp

import pytest
from support.judge_server import record, score, write_run
from support.raters import better, page_data, pairs_run, panel, prefers, rate, saved, study
from support.reports import binary

from rain.annotate import statistics
from rain.annotate.read import read_ratings, read_study
from rain.annotate.score import score as report_of
from rain.cli import main
from rain.report.command import build

pytest.importorskip("krippendorff")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 100)


def scored(paths):
    """Score by the command; return the report."""
    assert main(["annotate", "score", *map(str, paths)]) == 0
    return json.loads((paths[0].parent / "scores" / "score.json").read_text())


def answered(folder, *runs, decide, **options):
    """Have one rater answer everything about runs; return the report."""
    study(folder, *runs, **options)
    return scored([rate(folder, 1, decide)])


def number(text):
    return int(text[1:-1])


def named_runs(folder, count):
    """Write two hh runs, a and b, whose methods say their names and whose greedy answers are the same."""
    return [write_run(folder / name, "hh", [record(i, f"{name}{i}.", f"c{i}.") for i in range(count)]) for name in "ab"]


def test_verdicts_by_hand(tmp_path, capsys):
    records = [record(i, f"a{i}.", f"b{i}.", f"Question {i}?") for i in range(6)] + [record(6, "Same.", "Same.")]
    run, folder = write_run(tmp_path / "run", "hh", records), tmp_path / "study"
    study(folder, run, raters=3)
    votes = [  # of the three raters about each record, "first" being the method
        ("first", "first", "second"), ("first", "first", "first"), ("first", "tie", "bad"), ("second", "second", "bad"),
        ("bad", "bad", "first"), ("first", "second", "tie"),
    ]  # fmt: skip
    paths = [rate(folder, rater + 1, prefers(lambda a, b, rater=rater: votes[number(a)][rater])) for rater in range(3)]
    report = scored(paths)
    [pair] = report["pairs"]
    shown = {name: pair[name] for name in ("first", "second", "wins", "ties", "both_bad", "losses", "identical", "p")}
    assert shown == {
        "first": "RAIN", "second": "greedy", "wins": 2, "ties": 3, "both_bad": 1, "losses": 1,
        "identical": 1, "p": 1.0,
    }  # fmt: skip
    assert pair["wins_of_decided"]["rate"] == pytest.approx(2 / 3)
    assert [one["rated"] for one in report["by_rater"]] == ["6/6"] * 3
    # alpha by hand: coincidences within 6 items of 3 ratings; first 8, second 4, tie (and bad) 6 of 18
    [agreement] = report["agreement"]
    disagreement, expected = 2 * (2 + 0 + 2 + 2 + 2 + 3) / (3 - 1), (18**2 - 8**2 - 4**2 - 6**2) / (18 - 1)
    assert agreement["measure"] == "Krippendorff's alpha"
    assert agreement["agreement"]["value"] == pytest.approx(1 - disagreement / expected)
    assert "RAIN" in capsys.readouterr().out


def test_single_answers_by_hand(tmp_path):
    run, said = pairs_run(tmp_path / "run", 4), {"a0.": "yes", "a1.": "yes", "a2.": "no", "a3.": "unsure"}
    report = answered(tmp_path, run, question="harmless", decide=lambda item: said.get(item["texts"][0], "no"))
    assert [(one["method"], one["yes"]["yes"], one["yes"]["of"], one["cannot_tell"]) for one in report["methods"]] == [
        ("RAIN", 2, 3, 1), ("greedy", 0, 4, 0)
    ]  # fmt: skip
    [pair] = report["pairs"]
    assert (pair["pairs"], pair["first_only"], pair["second_only"], pair["p"]) == (3, 2, 0, 0.5)
    assert pair["difference"]["value"] == pytest.approx(2 / 3) and report["agreement"] == []


@pytest.mark.parametrize(("raters", "measure"), [(2, "Cohen's kappa"), (4, "Krippendorff's alpha")])
def test_the_agreement_and_the_side_bias_of_panels_are_within_their_intervals(tmp_path, raters, measure):
    """Intervals at 95 % miss the truth in 1 of 20 panels; 3 or more misses in 10 happen once in 80 times."""
    misses = sides = detected = 0
    for seed in range(10):
        paths = panel(tmp_path / str(seed), seed, raters, same=0.7, left=0.3, items=100)
        secret = read_study(paths[0].parent)
        report = report_of(secret, read_ratings(paths, secret))
        [found] = report["agreement"]
        assert found["measure"] == measure
        misses += not found["agreement"]["low"] <= 0.49 <= found["agreement"]["high"]
        left = report["by_rater"][0]
        sides += not left["left"]["low"] <= 0.65 <= left["left"]["high"]
        detected += left["p"] < 0.05
    assert misses <= 2 and sides <= 2
    assert detected >= 6  # the test's power is 0.83 for 65 of 100


def test_gold_and_self_agreement_are_counted_for_each_rater(tmp_path):
    gold, folder = tmp_path / "gold.jsonl", tmp_path / "study"
    rows = [{"question": f"Gold {i}?", "chosen": "x.", "rejected": "y."} for i in range(4)]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study(folder, pairs_run(tmp_path / "run", 10), raters=2, repeat=1.0, gold=gold)
    paths = [rate(folder, 1, prefers(lambda *_: "first")), rate(folder, 2, lambda _: "first")]
    careful, lefty = scored(paths)["by_rater"]
    assert careful["gold_right"]["rate"] == careful["same_when_repeated"]["rate"] == 1
    assert lefty["left"]["yes"] == lefty["left"]["of"] == 10 and lefty["p"] < 0.01
    assert lefty["same_when_repeated"]["rate"] == 0  # what is left the first time is right the second time
    assert lefty["gold_right"]["of"] == 4


def test_strengths_of_three_methods_follow_bradley_and_terry(tmp_path):
    wins = {"ab": 60, "ac": 80, "bc": 70}  # of 100
    decide = prefers(lambda x, y: "first" if number(x) < wins[x[0] + y[0]] else "second")
    report = answered(tmp_path, *named_runs(tmp_path, 100), decide=decide)
    assert [one["method"] for one in report["methods"]] == ["RAIN (a)", "greedy", "RAIN (b)"]
    a, c, b = (one["strength"] for one in report["methods"])
    assert a["value"] > b["value"] > c["value"] and a["value"] + b["value"] + c["value"] == pytest.approx(0, abs=1e-6)
    # at the maximum of the likelihood, each method's expected wins are those it has (half a win is added to each)
    chance = 1 / (1 + exp(b["value"] - a["value"])) + 1 / (1 + exp(c["value"] - a["value"]))
    assert 101 * chance == pytest.approx(60.5 + 80.5, rel=1e-3)
    assert all(one["low"] < one["value"] < one["high"] for one in (a, b, c))


def test_strengths_of_methods_that_no_comparison_connects_are_unknown(tmp_path):
    runs = [
        write_run(tmp_path / name, "hh", [record(i, f"a{i}.", f"c{i}.") for i in numbers])
        for name, numbers in (("a", range(4)), ("b", range(4, 8)))
    ]
    report = answered(tmp_path, *runs, decide=prefers(lambda *_: "first"))
    assert [pair["wins"] + pair["losses"] for pair in report["pairs"]].count(4) == 2
    assert [one["strength"]["value"] for one in report["methods"]] == [None] * 4


def test_ratings_of_gold_items_alone_say_nothing_of_methods(tmp_path, capsys):
    gold, file = tmp_path / "gold.jsonl", tmp_path / "rater_1.jsonl"
    gold.write_text('{"question": "Gold?", "chosen": "x.", "rejected": "y."}\n')
    study(tmp_path, *named_runs(tmp_path, 1), gold=gold)
    data = page_data(tmp_path / "rater_1.html")
    data["items"].sort(key=lambda item: item["question"] != "Gold?")
    file.write_text(saved(data, ["first"]))
    report = scored([file])
    assert report["methods"] == [] and report["by_rater"][0]["gold_right"]["of"] == 1
    assert "judges are not asked" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace('"verdict": "first"', '"verdict": "second"', 1), "altered or cut"),
        (lambda text: "\n".join([*text.splitlines()[:3], text.splitlines()[-1]]), "altered or cut"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "not what a page saves|altered or cut"),
        (lambda text: text.replace('"study": "', '"study": "0'), "another study"),
        (lambda text: text.replace('"rater": "1"', '"rater": "2"'), "altered or cut"),
        (lambda text: "[1]\n[2]\n", "not what a page saves"),
        (lambda text: "no json", "not what a page saves"),
        (lambda text: "", "not what a page saves"),
    ],
)
def test_altered_and_foreign_files_are_refused_by_name(tmp_path, capsys, change, named):
    [path, _] = panel(tmp_path, 1, 2, 1.0, items=4)
    path.write_text(change(path.read_text()))
    assert main(["annotate", "score", str(path)]) == 2
    error = capsys.readouterr().err
    assert "rater_1.jsonl" in error and re.search(named, error)
    assert not (tmp_path / "scores").exists()


def test_an_altered_page_two_files_of_a_rater_and_a_file_without_its_study_are_refused(tmp_path, capsys):
    paths = panel(tmp_path, 1, 2, 1.0, items=4)
    data = page_data(tmp_path / "rater_1.html")
    (tmp_path / "again.jsonl").write_text(saved(data, ["first"]))
    (tmp_path / "page.jsonl").write_text(saved({**data, "sha256": "0" * 64}, ["first"]))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rater_1.jsonl").write_text(paths[0].read_text())
    for files, named in (
        ([paths[0], tmp_path / "again.jsonl"], "second file of rater 1"),
        ([tmp_path / "page.jsonl"], "page that was altered"),
        ([tmp_path / "elsewhere" / "rater_1.jsonl"], "secret.json"),
    ):
        assert main(["annotate", "score", *map(str, files)]) == 2
        assert named in capsys.readouterr().err


def test_a_part_of_a_session_and_a_file_with_other_newlines_count(tmp_path):
    paths = panel(tmp_path, 1, 2, 1.0, items=4)
    data = page_data(tmp_path / "rater_1.html")
    paths[0].write_bytes(b"\xef\xbb\xbf" + saved(data, ["first", "tie"]).replace("\n", "\r\n").encode())
    assert [one["rated"] for one in scored(paths)["by_rater"]] == ["2/4", "4/4"]


@pytest.mark.parametrize(("task", "metric"), [("hh", "harmless"), ("adv", "attack")])
def test_ratings_of_answers_reach_the_tables_of_their_run_and_of_no_other_text(tmp_path, task, metric):
    run = write_run(tmp_path / "run", task, [record(i, f"a{i}.", f"b{i}.") for i in range(4)])
    answered(tmp_path, run, question="harmless", decide=better)
    write_run(run, task, [record(i, f"a{i}." if i else "New.", f"b{i}.") for i in range(4)])
    score(run, f"ratings:{tmp_path / 'scores' / 'harmless_0.jsonl'}")
    [row] = build([run])["runs"][0]["scores"]
    assert row["metric"] == metric and row["judge"] == "ratings:harmless_0, 1 blind rater, harmless-2"
    assert (row["rain"]["yes"], row["plain"]["yes"]) == ((3, 0) if metric == "harmless" else (0, 4))
    assert row["rain"]["null"] == 1


def test_ratings_of_truthfulness_count_for_the_question_that_is_asked_with_references(tmp_path):
    known = {"correct_answers": ["a."], "incorrect_answers": ["b."]}
    records = [record(i, f"a{i}.", f"b{i}.", **known) for i in range(3)]
    run = write_run(tmp_path / "run", "truth", records)
    answered(tmp_path, run, question="truthful", decide=better)
    score(run, f"ratings:{tmp_path / 'scores' / 'truthful_0.jsonl'}")
    [row] = [row for row in build([run])["runs"][0]["scores"] if row["judge"].startswith("ratings:")]
    assert (row["rain"]["yes"], row["plain"]["yes"], row["rain"]["null"]) == (3, 0, 0)


def test_preferences_reach_the_tables_of_their_run(tmp_path):
    run = pairs_run(tmp_path / "run", 3)
    answered(tmp_path, run, decide=prefers(lambda a, b: ["first", "second", "tie"][number(a)]))
    score(run, f"ratings:{tmp_path / 'scores' / 'preferred_0.jsonl'}")
    [row] = build([run])["runs"][0]["pairwise"]
    assert [row[name] for name in ("win", "lose", "tie", "null", "open")] == [1, 1, 1, 0, 0]


def test_judges_of_a_run_are_compared_with_the_raters(tmp_path):
    run = pairs_run(tmp_path / "run", 4)
    binary(run, "harmless", [True, True, False, None], [False, False, False, False])
    for question, decide, agrees in (
        ("harmless", better, (6, 7)),
        ("preferred", prefers(lambda a, b: ["first", "second", "tie", "tie"][number(a)]), (2, 3)),
    ):
        [row] = answered(tmp_path / question, run, question=question, decide=decide)["judges"]
        assert (row["judge"], row["criterion"]) == ("openai:m", "harmless")
        assert (row["agrees"]["yes"], row["agrees"]["of"]) == agrees
