"""The report: outcomes to rows by hand arithmetic, pairwise orders, cost, and both formats."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from support.judge_server import record, write_run
from support.reports import JUDGE, binary, write_scores

from rain.cli import main
from rain.core.errors import RainError
from rain.judges.queries import load_run
from rain.judges.scoring import file_name
from rain.report.command import build
from rain.report.markdown import markdown, p_value


def only(outdir):
    [found] = build([outdir])["runs"]
    return found


def test_rates_intervals_and_the_paired_test(tmp_path):
    outdir = write_run(tmp_path, "imdb", [record(i, f" a{i}", f" b{i}") for i in range(8)])
    rain = [True, True, True, True, True, True, None, True]
    plain = [True, False, False, False, False, True, False, "open"]
    binary(outdir, "sentiment", rain, plain)
    [row] = only(outdir)["scores"]
    assert (row["metric"], row["judge"], row["version"], row["better"]) == ("positive", JUDGE, "sentiment-1", "higher")
    assert {key: row["rain"][key] for key in ("yes", "of", "rate", "null", "open")} == {
        "yes": 7, "of": 7, "rate": 1.0, "null": 1, "open": 0,
    }  # fmt: skip
    assert (row["plain"]["yes"], row["plain"]["of"], row["plain"]["open"]) == (2, 7, 1)
    # known on both sides: r0..r5; RAIN alone in r1..r4; exact p = 2 * (1/2)^4
    assert (row["pairs"], row["rain_only"], row["plain_only"]) == (6, 4, 0)
    assert row["p"] == pytest.approx(0.125)
    assert row["difference"] == pytest.approx(4 / 6)


def test_steering_to_negative_counts_the_reviews_that_are_not_positive(tmp_path):
    records = [record(i, f" a{i}", f" b{i}", target="Sure, here is") for i in range(3)]
    outdir = write_run(tmp_path, "imdb", records, target="negative")
    binary(outdir, "sentiment", [False, False, None], [True, True, True])
    found = only(outdir)
    [row] = found["scores"]
    assert (found["target"], row["metric"], row["paper"]) == ("negative", "negative", [])
    assert (row["rain"]["yes"], row["rain"]["of"], row["rain"]["null"], row["plain"]["yes"]) == (2, 2, 1, 0)


def test_true_and_info_of_one_judge_and_of_two_that_share_the_work(tmp_path):
    outdir = write_run(tmp_path, "truth", [record(i, f"a{i}", f"b{i}") for i in range(4)])
    binary(outdir, "true", [True, True, False, True], [True, None, False, "open"])
    binary(outdir, "info", [True, False, True, None], [True, True, None, False])
    joint = next(row for row in only(outdir)["scores"] if row["metric"] == "true_info")
    assert joint["judge"] == JUDGE
    # what is unknown of two verdicts stays unknown, also next to a no
    known = [[joint[side][name] for name in ("yes", "of", "null", "open")] for side in ("rain", "plain")]
    assert known == [[1, 3, 1, 0], [1, 1, 2, 1]]
    (outdir / file_name(JUDGE)).unlink()
    binary(outdir, "true", [True] * 4, [False] * 4, "hf:truth")
    binary(outdir, "info", [True] * 4, [True] * 4, "hf:info")
    joint = next(row for row in only(outdir)["scores"] if row["metric"] == "true_info")
    assert (joint["judge"], joint["rain"]["yes"], joint["plain"]["yes"]) == ("hf:truth + hf:info", 4, 0)
    assert joint["p"] == pytest.approx(0.125)


def test_attack_success_names_every_judge_and_lower_is_better(tmp_path):
    outdir = write_run(tmp_path, "adv", [record(0, "a", "b"), record(1, "c", "d")])
    binary(outdir, "attack", [False, False], [True, True], "keywords:modern")
    binary(outdir, "attack", [False, True], [True, True])
    rows = only(outdir)["scores"]
    assert [(row["judge"], row["better"], row["rain"]["yes"]) for row in rows] == [
        ("keywords:modern", "lower", 0),
        ("openai:m", "lower", 1),
    ]
    assert [figure["setting"] for figure in rows[0]["paper"]] == ["Vicuna-7B, white-box GCG", "Vicuna-7B, transfer GCG"]


def test_a_pair_is_won_only_in_both_orders_and_the_sign_test_counts_what_is_decided(tmp_path):
    outdir = write_run(tmp_path, "hh", [record(i, f"a{i}", f"b{i}") for i in range(10)])
    orders = [("first", "second")] * 4 + [("second", "first"), ("first", "first"), ("first", "tie"), ("first", None)]
    verdicts = {("r8", "raina,pa", "pairwise"): "first"}
    for i, (ahead, behind) in enumerate(orders):
        verdicts |= {(f"r{i}", "raina,pa", "pairwise"): ahead, (f"r{i}", "pa,raina", "pairwise"): behind}
    write_scores(outdir, verdicts)
    found = only(outdir)
    [row] = found["pairwise"]
    assert [row[name] for name in ("win", "lose", "tie", "null", "open")] == [4, 1, 2, 1, 2]
    assert row["win_rate"] == pytest.approx(0.8)
    assert row["p"] == pytest.approx(2 * (1 + 5) / 32)
    assert found["scores"] == []


def test_verdicts_about_older_answers_and_older_wordings_do_not_count(tmp_path):
    outdir = write_run(tmp_path, "imdb", [record(0, " old", " b"), record(1, " c", " d")])
    binary(outdir, "sentiment", [True, True], [True, True])
    write_run(tmp_path, "imdb", [record(0, " new", " b"), record(1, " c", " d")])
    [row] = only(outdir)["scores"]
    assert (row["rain"]["of"], row["rain"]["open"]) == (1, 1)
    write_scores(outdir, {("r1", "raina", "sentiment"): False}, wording=2)
    [row] = only(outdir)["scores"]
    assert (row["version"], row["rain"]["yes"], row["rain"]["of"], row["plain"]["of"]) == ("sentiment-2", 0, 1, 0)
    assert row["other_versions"] == 3


def costs(rain, plain):
    return {"cost": {"rain": {"seconds": rain, "simulations": 10}, "plain": {"seconds": plain}}}


def test_cost_is_summed_averaged_and_set_in_proportion(tmp_path):
    failed = {"id": "r9", "question": "q", "error": "out of memory"}
    records = [record(0, "a", "b", **costs(2.0, 1.0)), record(1, "c", "d", **costs(6.0, 1.0)), failed]
    found = only(write_run(tmp_path, "hh", records, tail='{"id"'))
    assert found["cost"]["prompts"] == 2
    assert found["cost"]["sides"]["rain"]["seconds"] == {"total": 8.0, "mean": 4.0}
    assert found["cost"]["sides"]["rain"]["simulations"] == {"total": 20.0, "mean": 10.0}
    ratio = found["cost"]["ratios"]["plain"]["seconds"]
    assert ratio["value"] == 4.0 and ratio["high"] == pytest.approx(4 + 2 * 1.959964, abs=1e-5)
    assert (found["records"], found["errors"], found["torn"]) == (2, 1, 1)
    assert found["error_reasons"] == {"out of memory": 1}
    assert found["cost"]["paper"][0]["setting"] == "LLaMA-30B, greedy without a KV cache"


def test_markdown_and_json_hold_the_same_numbers(tmp_path, capsys):
    outdir = write_run(tmp_path / "out", "imdb", [record(i, f" a{i}", f" b{i}", **costs(3, 1)) for i in range(4)])
    binary(outdir, "sentiment", [True] * 4, [True, False, False, None])
    assert main(["report", str(outdir), "--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md")]) == 0
    text = (tmp_path / "r.md").read_text()
    assert capsys.readouterr().out == text
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == json.loads(json.dumps(build([outdir]))) and report["schema"] == 1
    line = next(line for line in text.splitlines() if line.startswith("| positive"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "positive", "openai:m", "100.0 [51, 100] 4/4", "33.3 [6, 79] 1/3", "+66.7 [-6, 94]", "3: 2 / 0", "0.50",
        "0 / 1", "0", "62.1 → 82.1 (LLaMA-7B)", "1 / 1", "- / -",
    ]  # fmt: skip
    assert "| seconds" in text and "3.00 [3.00, 3.00]" in text


def test_p_values_have_two_significant_digits():
    assert [p_value(p) for p in (None, 0.25, 0.00123)] == ["-", "0.25", "0.0012"]


def test_a_run_that_was_not_judged_says_so(tmp_path):
    assert "No verdicts yet" in markdown(build([write_run(tmp_path, "truth", [record(0, "a", "b")])]))


def test_bad_input_is_one_clear_sentence(tmp_path):
    with pytest.raises(RainError, match="no such directory"):
        build([tmp_path / "none"])
    outdir = write_run(tmp_path, "imdb", [record(0, "a", "b")])
    (outdir / "config.json").write_text('{"model": "m"}')
    with pytest.raises(RainError, match="field task is missing"):
        build([outdir])


def test_a_task_of_another_package_is_judged_and_reported(tmp_path):
    outdir = write_run(tmp_path, "imdb", [record(0, "a", "b")])
    (outdir / "config.json").write_text('{"task": "chess"}')
    run = load_run(outdir)
    assert run.queries == {"helpful": 2, "pairwise": 2, "fluency": 2}
    assert "chess" in markdown(build([outdir]))


HOSTILE = "\x1b]0;OWNED\x07\x1b[2J\x9b31m\r\n# heading\n| <script>`x`</script> [a](http://b) \u202e"


def test_text_of_models_and_servers_is_neither_markup_nor_control_characters(tmp_path):
    failed = {"id": "r9", "question": "q", "error": HOSTILE}
    outdir = write_run(tmp_path, "imdb", [record(0, " a", " b", model=HOSTILE, **costs(2.0, 1.0)), failed])
    binary(outdir, "sentiment", [True], [False], judge=HOSTILE)
    write_scores(outdir, {("r0", "pa", "sentiment"): True}, judge=HOSTILE, wording=2)
    text = markdown(build([outdir]))
    assert text.count("OWNED") >= 4
    assert text.replace("\n", "").isprintable()
    plain = re.sub(r"\\.", "", text)
    assert "<" not in plain and "`" not in plain and "](" not in plain
    assert [line[:3] for line in plain.splitlines() if line.startswith("#")] == ["## "]
    [row] = [line for line in plain.splitlines() if line.startswith("| positive")]
    assert row.count("|") == 13


def test_a_terminal_without_unicode_gets_escapes_and_the_files_are_written(tmp_path):
    outdir = write_run(tmp_path / "out", "imdb", [record(0, " a", " b", model="caf\u00e9 \u2192")])
    binary(outdir, "sentiment", [True], [False])
    words = ["report", str(outdir), "--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md")]
    for encoding in ("ascii", "latin-1"):
        env = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
        done = subprocess.run([sys.executable, "-m", "rain", *words], capture_output=True, env=env, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"62.1 \\u2192 82.1" in done.stdout
        assert "62.1 \u2192 82.1" in (tmp_path / "r.md").read_text("utf-8")
        (tmp_path / "r.json").unlink()


def test_records_that_lack_what_later_versions_write_are_reported(tmp_path):
    outdir = write_run(tmp_path, "hh", [record(0, "a", "b", cost=None), {"id": "r1", "question": "q", "raina": "x"}])
    found = only(outdir)
    assert (found["records"], found["cost"]["prompts"]) == (2, 0)
    assert "2 records with answers" in markdown(build([outdir]))


def test_records_of_prompts_that_left_the_data_set_do_not_count(tmp_path):
    outdir = write_run(tmp_path, "imdb", [record(i, f" a{i}", f" b{i}", **costs(2.0, 1.0)) for i in range(3)])
    binary(outdir, "sentiment", [True, True, False], [False, False, False])
    (outdir / "prompts.json").write_text('{"r0": "", "r1": ""}')
    found = only(outdir)
    [row] = found["scores"]
    assert (found["records"], found["left_out"], found["cost"]["prompts"]) == (2, 1, 2)
    assert (row["rain"]["yes"], row["rain"]["of"], row["pairs"]) == (2, 2, 2)
    assert "Left out: 1 record of prompts that are no longer in the data set" in markdown(build([outdir]))


@pytest.mark.parametrize("name", ["res_0.jsonl", "config.json", "scores_x.jsonl"])
@pytest.mark.parametrize("command", ["report RUN --json", "view RUN --out", "export RUN --format sft --out"])
def test_no_output_takes_the_place_of_a_file_of_a_run(command, name, tmp_path, capsys):
    outdir = write_run(tmp_path / "run", "imdb", [record(0, "a", "b")])
    before = {path.name: path.read_bytes() for path in outdir.iterdir()}
    words = command.replace("RUN", str(outdir)).split()
    assert main([*words, str(outdir / name)]) == 2
    assert "is a file of the run in" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in outdir.iterdir()} == before
