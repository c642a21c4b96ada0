"""`rain judge`."""

import argparse
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from support.judge_server import judge_server, record, review_run, stored, write_run
from support.pipes import unread

from rain.cli import main
from rain.core.errors import RainError
from rain.judges.command import add_arguments, run
from rain.judges.scoring import file_name


def command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(map(str, words))))


def test_adv_is_scored_by_both_keyword_lists_without_being_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdir = write_run(tmp_path, "adv", [record(1, "I cannot", "Sure")])
    assert command(outdir) == 0
    assert [line["verdict"] for line in stored(outdir, "keywords:llm-attacks")] == [False, True]
    assert [line["verdict"] for line in stored(outdir, "keywords:modern")] == [False, True]
    out = capsys.readouterr().out
    assert "keywords:modern: 2 new verdicts" in out
    assert "adv is also scored by keywords:llm-attacks and keywords:modern, which cost nothing" in out
    assert command(outdir, "--judge", "keywords:modern") == 0
    assert "adv is also scored by keywords:llm-attacks, which" in capsys.readouterr().out


def test_the_exit_code_is_one_while_queries_are_pending(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdir = review_run(tmp_path)
    with judge_server(lambda request: "positive", [None, 400]) as server:
        words = [outdir, "--judge", "openai:m", "--base-url", server.url, "--judge-concurrency", 1]
        assert command(*words) == 1
        assert "1 queries got no reply" in capsys.readouterr().out
        assert command(*words) == 0


def test_judges_are_checked_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "labelled.jsonl"
    path.write_text('{"response": "Sure", "jailbroken": true}\n{"response": "I refuse", "jailbroken": false}\n')
    assert command("--judge", "keywords:llm-attacks", "--judge", "keywords:modern", "--check", path) == 0
    out = capsys.readouterr().out
    assert "2 labelled texts, 1 of them good" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("keywords")}
    assert rows["keywords:llm-attacks"][3] == "0.500"
    assert rows["keywords:modern"][3] == "1.000"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "OUTDIR"),
        (["nowhere", "--judge", "keywords:modern"], "no such directory"),
        (["EMPTY", "--judge", "keywords:modern"], "no res_"),
        (["RUN"], "--judge"),
        (["RUN", "--judge", "gpt-4"], "'gpt-4'"),
        (["RUN", "--judge", "keywords:"], "'keywords:'"),
        (["RUN", "--judge", "keywords:modern"], "task imdb"),
        (["RUN", "--judge", "fluency:writer-7b"], "writes the answers"),
        (["RUN", "--judge", "openai:m", "--judge-concurrency", "0"], "--judge-concurrency"),
        (["RUN", "--judge", "openai:m", "--judge-timeout", "0"], "--judge-timeout"),
        (["RUN", "--judge", "keywords:modern", "--criterion", "attack"], "--criterion is for --check"),
        (["RUN", "--judge", "keywords:modern", "--questions", "nofile"], "--questions is for --check"),
        (["RUN", "--judge", "keywords:modern", "--check", "nofile"], "leave .*run out"),
        (["--check", "nofile"], "--judge"),
        (["--judge", "keywords:modern", "--check", "nofile"], "nofile"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "RUN": review_run(tmp_path / "run")}
    with pytest.raises(RainError, match=message):
        command(*[places.get(word, word) for word in words])


def test_a_judge_that_decides_nothing_in_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RainError, match="task chess"):
        command(write_run(tmp_path, "chess", []), "--judge", "keywords:modern")


def test_records_of_prompts_that_left_the_data_set_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdir = write_run(tmp_path, "adv", [record(1, "a", "b"), record(2, "c", "d"), record(3, "e", "f")])
    (outdir / "prompts.json").write_text('{"r1": "", "r3": ""}')
    assert command(outdir) == 0
    assert "left out 1 record(s)" in capsys.readouterr().out
    assert {line["id"] for line in stored(outdir, "keywords:modern")} == {"r1", "r3"}


def test_judging_and_checks_continue_when_nobody_reads_their_output_any_more(tmp_path: Path) -> None:
    outdirs = [write_run(tmp_path / name, "adv", [record(1, "a", "b")], tail="{") for name in "AB"]
    (outdirs[0] / "prompts.json").write_text('{"r2": ""}')
    (tmp_path / "labelled.jsonl").write_text('{"response": "Sure", "jailbroken": true}\n')
    for words in (outdirs, ["--check", tmp_path / "labelled.jsonl"]):
        with unread() as stream, redirect_stdout(stream):
            assert command(*words, "--judge", "keywords:modern") == 0
    assert len(stored(outdirs[1], "keywords:modern")) == 2


@pytest.mark.parametrize("text", ["", "{", "3", "[" * 200_000])
def test_a_damaged_list_of_prompts_is_named(tmp_path: Path, text: str) -> None:
    outdir = write_run(tmp_path, "adv", [record(1, "a", "b")])
    (outdir / "prompts.json").write_text(text)
    with pytest.raises(RainError, match="prompts.json"):
        command(outdir)


def test_an_error_that_quotes_a_file_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdir = write_run(tmp_path, "adv", [record(1, "a", "b")])
    (outdir / file_name("keywords:modern")).write_text('{"id": "\\u001b[2JOWNED\\u0007"}\n')
    assert main(["judge", str(outdir)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rain: error: ") and "\\x1b[2JOWNED\\x07" in said
    assert said.rstrip("\n").isprintable()


def test_a_wrong_judge_is_refused_before_any_other_is_asked(tmp_path):
    outdir = write_run(tmp_path, "adv", [record(0, "Sure", "I cannot")])
    with pytest.raises(RainError, match="unknown judge 'nope:x'"):
        command(outdir, "--judge", "nope:x")
    assert list(outdir.glob("scores_*")) == []
