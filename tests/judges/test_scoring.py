"""The score file: what is asked, kept, and asked again."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.judge_server import JudgeServer, asked, judge_server, record, review_run, score_at, stored, write_run
from support.rows import save_rows

from rain.core.errors import RainError
from rain.judges.scoring import file_name, latest_verdicts, read_verdicts


def test_verdicts_are_kept_and_never_asked_again(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " was fun", " was dull", question="It")])
    with judge_server(lambda request: "positive" if "fun" in asked(request) else "negative") as server:
        first = score_at(outdir, server)
        second = score_at(outdir, server)
    assert (first.asked, first.cached, first.calls) == (2, 0, 2)
    assert (second.asked, second.cached, second.calls) == (0, 2, 0)
    assert len(server.requests) == 2


def test_two_scorings_at_once_pay_once(tmp_path: Path) -> None:
    outdir, both = review_run(tmp_path), threading.Barrier(2)

    def begin(server: JudgeServer) -> int:
        both.wait(30)
        return score_at(outdir, server).asked

    with judge_server(lambda request: "positive") as server, ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(begin, [server] * 2)) == [0, 2]
        assert len(server.requests) == 2


def test_a_verdict_is_stored_in_the_published_format(tmp_path: Path) -> None:
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "Positive.") as server:
        score_at(outdir, server)
    line = stored(outdir)[0]
    assert len(line.pop("hash")) == 16
    asked = {"id": "r0", "answer": "raina", "ask": "sentiment", "version": "sentiment-2"}
    assert line == {**asked, "judge": "openai:m", "verdict": True, "reply": "Positive."}


def test_only_a_changed_answer_is_asked_again(tmp_path: Path) -> None:
    outdir = review_run(tmp_path)
    with judge_server() as server:
        score_at(outdir, server)
        write_run(tmp_path, "imdb", [record(0, " changed", " b")])
        assert score_at(outdir, server).asked == 1
    assert "changed" in asked(server.requests[-1])


def test_unreadable_replies_are_null_and_asked_again_only_on_request(tmp_path: Path) -> None:
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "I think it is positive") as server:
        assert score_at(outdir, server).nulls["sentiment"] == 2
    assert [(line["verdict"], line["reply"]) for line in stored(outdir)] == [(None, "I think it is positive")] * 2
    with judge_server(lambda request: "positive") as server:
        again = score_at(outdir, server)
        assert (again.calls, again.nulls["sentiment"]) == (0, 2)
        assert score_at(outdir, server, again=True).asked == 2
    last = {key: decision for _, key, decision in read_verdicts(outdir / file_name("openai:m"))}
    assert list(last.values()) == [True, True]


def test_an_incomplete_score_line_is_dropped_and_its_query_asked_again(tmp_path: Path) -> None:
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "positive") as server:
        score_at(outdir, server)
        path = outdir / file_name("openai:m")
        path.write_bytes(path.read_bytes()[:-20])
        assert score_at(outdir, server).asked == 1
    assert [line["answer"] for line in stored(outdir)] == ["raina", "pa"]


LINE = {"id": "r1", "answer": "pa", "ask": "true", "version": "v", "hash": "h", "judge": "j", "verdict": True}


DAMAGED = (("answer", None), ("verdict", "maybe"), ("verdict", []), ("hash", ["x"]), ("version", 1))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        *(({**LINE, field: value}, f": .*r1 lacks a proper field '{field}'") for field, value in DAMAGED),
        *(({name: LINE[name] for name in LINE if name != field}, f": .*'{field}'") for field, _ in DAMAGED),
        (f"{json.dumps(LINE)[:-1]}, ?}}", ", line 1 is not a result record"),
        ("[" * 200_000, ", line 1"),
    ],
    ids=range(12),
)
def test_a_damaged_verdict_is_named(tmp_path: Path, line: object, named: str) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text(f"{line if isinstance(line, str) else json.dumps(line)}\n{json.dumps(LINE)}\n")
    with pytest.raises(RainError, match=f"scores.jsonl{named}"):
        list(read_verdicts(path))


def test_a_score_file_may_have_a_mark_in_front_blank_lines_and_odd_separators(tmp_path: Path) -> None:
    path, odd = tmp_path / "scores.jsonl", "a\u2028\x85\x0b\x0cb"
    path.write_text("\ufeff" + json.dumps({**LINE, "id": odd}, ensure_ascii=False) + "\r\n\n \n", encoding="utf-8")
    assert [key.record for _, key, _ in read_verdicts(path)] == [odd]


def test_file_names_are_safe_and_judges_that_share_one_stay_apart(tmp_path: Path) -> None:
    assert file_name("hf:org/Model-1.5 x") == "scores_hf_org_Model-1.5_x.jsonl"
    assert file_name("openai:a/b") == file_name("openai:a_b")
    long = [file_name("ratings:x, " + " and ".join(f"{name} {i}" for i in range(99))) for name in ("rater", "r")]
    assert max(map(len, long)) < 200 and long[0] != long[1] and long[0].startswith("scores_ratings_x_rater_0_and_")
    assert file_name("r" * 300) != file_name("r" * 301), "the same beginning"
    assert file_name("r" * 150) == f"scores_{'r' * 150}.jsonl"
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "positive") as server:
        score_at(outdir, server, "openai:a/b")
        assert score_at(outdir, server, "openai:a_b").asked == 2


def test_the_latest_verdicts_are_those_of_the_wording_that_was_asked_last(tmp_path: Path) -> None:
    asked_for = [("a", "harmless", "old"), ("a", "harmless", "new"), ("a", "helpful", "old"), ("b", "harmless", "old")]
    same = {"answer": "raina", "hash": "0", "verdict": True}
    rows = [{**same, "judge": judge, "id": f"r{i}", "ask": ask, "version": version}
            for i, (judge, ask, version) in enumerate(asked_for)]  # fmt: skip
    path = save_rows(tmp_path / "scores_j.jsonl", *rows)
    assert [key.record for _, key, _ in latest_verdicts(path)] == ["r1", "r2", "r3"]
