"""The OpenAI judge under faults, at a server whose faults are scripted."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.judge_server import judge_server, record, review_run, score_at, stored, write_run

from rain.core.errors import RainError
from rain.judges.base import JudgeConfig
from rain.judges.command import describe
from rain.judges.registry import open_judge
from rain.transport import MAX_REPLY_BYTES


def test_requests_are_deterministic_and_short(tmp_path: Path) -> None:
    with judge_server() as server:
        score_at(review_run(tmp_path), server, judge_max_tokens=9)
    assert {(r["model"], r["temperature"], r["max_tokens"]) for r in server.requests} == {("m", 0.0, 9)}


@pytest.mark.parametrize("fault", [429, 500, 503, 408, "cut", "html", "empty", "slow", "drip"])
def test_a_passing_fault_is_retried_and_counted(tmp_path: Path, fault: Any) -> None:
    limit = {"slow": 0.3, "drip": 0.5}.get(fault, 5.0)
    with judge_server(lambda request: "positive", [fault, fault]) as server:
        summary = score_at(review_run(tmp_path), server, judge_timeout=limit)
    assert (summary.asked, summary.failed) == (2, 0)
    assert (summary.calls, summary.retries) == (len(server.requests), 2) == (4, 2)


def test_retries_are_bounded_and_the_query_stays_pending(tmp_path: Path) -> None:
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "positive", [500, 500, 500]) as server:
        summary = score_at(outdir, server, judge_retries=2)
        assert (summary.asked, summary.failed, summary.calls) == (1, 1, 4)
        assert "HTTP 500 (3 tries)" in describe(summary)
        assert [line["answer"] for line in stored(outdir)] == ["pa"]
        assert score_at(outdir, server).asked == 1


def test_a_judge_that_never_answers_is_given_up_soon(tmp_path: Path) -> None:
    with judge_server(script=[500] * 100) as server, pytest.raises(RainError, match="no reply to 5 queries in a row"):
        score_at(review_run(tmp_path, 20), server, judge_retries=1)
    assert len(server.requests) == 10


def test_nobody_listening_is_reported(tmp_path: Path) -> None:
    with judge_server() as server:
        pass
    with pytest.raises(RainError, match="connection failed"):
        score_at(review_run(tmp_path, 4), server, judge_retries=0)


def test_a_query_that_the_server_declines_is_skipped_without_retries(tmp_path: Path) -> None:
    with judge_server(lambda request: "positive", [None, *[400] * 7]) as server:
        summary = score_at(review_run(tmp_path, 4), server)
    assert (summary.asked, summary.failed, summary.retries) == (1, 7, 0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, "RAIN_JUDGE_API_KEY"),
        (404, "--judge-base-url"),
        ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "quota"),
    ],
)
def test_a_lasting_fault_stops_at_once_and_keeps_the_verdicts(tmp_path: Path, fault: Any, words: str) -> None:
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "positive", [None, fault]) as server, pytest.raises(RainError, match=words):
        score_at(outdir, server)
    assert len(server.requests) == 2
    assert len(stored(outdir)) == 1


def test_the_spending_guard_counts_retries_and_keeps_the_verdicts(tmp_path: Path) -> None:
    outdir = review_run(tmp_path, 10)
    with judge_server(lambda request: "positive", [500]) as server:
        with pytest.raises(RainError, match="--max-calls 7"):
            score_at(outdir, server, max_calls=7, judge_concurrency=3)
        assert len(server.requests) == 7
        assert len(stored(outdir)) == 6
        assert score_at(outdir, server).asked == 14


def test_requests_run_at_the_same_time_up_to_the_limit(tmp_path: Path) -> None:
    gate, waiting = Event(), []

    def reply(request: dict[str, Any]) -> str:
        waiting.append(request)
        if len(waiting) >= 4:
            gate.set()
        gate.wait(10)
        return "positive"

    with judge_server(reply) as server:
        summary = score_at(review_run(tmp_path, 8), server, judge_concurrency=4)
    assert summary.asked == 16
    assert server.most_in_flight == 4


def test_parameters_that_a_reasoning_model_refuses_are_left_out(tmp_path: Path) -> None:
    refusals = [
        (400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported with this model."}})
        for name in ("max_tokens", "temperature")
    ]
    with judge_server(lambda request: "positive", refusals) as server:
        assert score_at(review_run(tmp_path), server).asked == 2
    assert [sorted(request.keys() - {"messages", "model"}) for request in server.requests] == [
        ["max_tokens", "temperature"],
        ["max_completion_tokens", "temperature"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]


@pytest.mark.parametrize("url", ["", "http://127.0.0.1.example.org/v1", "https://10.0.0.1/v1"])
def test_a_key_is_needed_for_other_machines(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("RAIN_JUDGE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RainError, match="RAIN_JUDGE_API_KEY"):
        open_judge("openai:m", JudgeConfig(judge_base_url=url))


@pytest.mark.parametrize(("own", "sent"), [("sk-judge", "Bearer sk-judge"), ("", "Bearer none")])
def test_a_server_gets_the_judges_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, sent: str
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "RAIN_API_KEY"):
        monkeypatch.setenv(name, f"sk-SECRET-{name}")
    monkeypatch.setenv("RAIN_JUDGE_API_KEY", own)
    with judge_server(lambda request: "positive") as server:
        score_at(review_run(tmp_path), server)
    assert {headers["authorization"] for headers in server.headers} == {sent}
    assert "SECRET" not in "".join(map(str, server.headers))
    assert "sk-" not in "".join(file.read_text() for file in tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "times"), [("flood", 1), ("flood", 4), ("gzip", 4)])
def test_a_reply_without_end_is_cut_off_also_unpacked_and_its_query_skipped(
    tmp_path: Path, kind: str, times: int
) -> None:
    with judge_server(lambda request: "positive", [(kind, times * MAX_REPLY_BYTES), ("gzip", 10)]) as server:
        summary = score_at(review_run(tmp_path), server)
    assert (summary.asked, summary.failed, summary.retries) == (1, 1, 0)
    assert "larger than" in summary.reasons[0]


def test_a_long_reply_is_cut_in_the_score_file(tmp_path: Path) -> None:
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "x" * 5_000_000) as server:
        score_at(outdir, server)
    for line in stored(outdir):
        assert line["verdict"] is None
        assert line["reply"] == "x" * 2000 + " [... 5,000,000 characters]"


def test_a_redirect_to_another_place_is_not_followed(tmp_path: Path) -> None:
    with judge_server(lambda request: "positive") as elsewhere:
        with judge_server(script=[("redirect", f"{elsewhere.url}/chat/completions")]) as server:
            with pytest.raises(RainError, match="redirects .HTTP 307.*--judge-base-url"):
                score_at(review_run(tmp_path), server)
    assert elsewhere.requests == []


def test_what_a_server_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    said = {"error": {"message": "\x1b]0;OWNED\x07\x1b[2J\x9b31m\u202e no"}}
    with judge_server(lambda request: "positive", [(400, said)]) as server:
        text = describe(score_at(review_run(tmp_path), server))
    assert "OWNED" in text
    assert text.replace("\n", "").isprintable()


def test_a_lone_surrogate_in_a_record_is_judged(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "truth", [record(0, "a\ud800", "b", question="\udfff?", correct_answers=["\ud800"])])
    with judge_server(lambda request: "true") as server:
        summary = score_at(outdir, server)
    assert (summary.asked, summary.failed, summary.calls) == (4, 0, 4)
