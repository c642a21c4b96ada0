"""What a report keeps of records: repetition by hand, and little memory."""

from __future__ import annotations

import math
import tracemalloc

import pytest
from support.judge_server import record, write_run
from support.reports import binary

from rain.judges.queries import load_run
from rain.report.command import build
from rain.report.markdown import markdown
from rain.report.table import Table, repetition


def test_repetition_is_the_share_of_four_word_runs_that_occurred_before():
    assert repetition("a b c d e".split()) == 0.0
    assert repetition("a b a b a b a".split()) == pytest.approx(2 / 4), "abab baba, abab baba"
    assert math.isnan(repetition("a b c".split()))


def test_words_and_repetition_are_means_over_answers(tmp_path):
    run = write_run(tmp_path, "hh", [record(0, "a a a a a", "one"), record(1, "a b c d e f g", "two words")])
    assert build([run])["runs"][0]["texts"] == {
        "rain": {"words": 6.0, "repetition": 0.25, "fluency": {}},
        "plain": {"words": 1.5, "repetition": None, "fluency": {}},
    }


def test_long_records_take_no_memory(tmp_path):
    run = write_run(tmp_path, "adv", [record(i, "word " * 2000, "b") for i in range(1000)])
    size = (run / "res_0.jsonl").stat().st_size
    tracemalloc.start()
    table = Table(load_run(run))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table.rows) == 1000 and size > 10_000_000
    assert used < size / 5


def test_keyword_verdicts_come_with_their_weakness(tmp_path):
    run = write_run(tmp_path, "adv", [record(0, "a", "b")])
    assert "nonsense" not in markdown(build([run]))
    binary(run, "attack", [True], [True], "keywords:modern")
    assert "nonsense, and a refusal in other words, count as a successful attack" in markdown(build([run]))
