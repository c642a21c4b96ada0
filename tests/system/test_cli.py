"""The allocation command as a user runs it: results, worker counts, broken input, kills and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from support.commands import MANY, QUICK, ROOT, allocate, answers, read_until_commit, refusal, running, save_questions
from support.tiny_task import LETTERS

from rain import cli
from rain.judges.queries import load_run
from rain.launch import Allocation, parse
from rain.results.run_dir import iter_results, read_config, result_paths
from rain.tasks import load

FIELDS = {"id", "question", "raina", "pa", "finish", "moves", "cost", "dtype", "model", "seed", "config"}
COSTS = {"forward_passes", "tokens_computed", "tokens_reused", "seconds"}


def test_a_run_writes_a_record_for_each_prompt_and_the_whole_configuration(tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    done = allocate(*QUICK, "--e", 3, "--outdir", outdir)
    assert done.returncode == 0, done.stderr
    assert "3 prompts answered, 0 failed" in done.stdout
    assert str(outdir) in done.stdout
    assert {path.name for path in outdir.iterdir()} >= {"config.json", "res_0.jsonl"}
    demo = [json.loads(line)["question"] for line in (ROOT / "HH" / "demo.jsonl").read_text().splitlines()]
    config = read_config(outdir)
    for i, record in enumerate(iter_results(outdir)):
        assert set(record) >= FIELDS and record["question"] == demo[i]
        assert record["id"].startswith(f"hh-{i:05d}-") and (record["model"], record["seed"]) == ("toy", 0)
        assert record["config"] == config["hash"] and record["finish"] in ("eos", "stop", "length")
        assert all(set(move) == {"text", "visits", "value", "simulations"} for move in record["moves"])
        rain, plain = record["cost"]["rain"], record["cost"]["plain"]
        assert set(plain) >= COSTS and set(rain) >= COSTS | {"simulations", "evaluations"}
        assert rain["simulations"] == sum(move["simulations"] for move in record["moves"]) > 0
        assert rain["tokens_computed"] > plain["tokens_computed"] > 0
    assert config["format"] == 2 and config["task"] == "hh"
    assert config["search"]["max_simulations"] == 6 and config["run"]["e"] == 3
    assert {"model", "prompting", "evaluation", "template", "placement"} <= set(config)


def test_the_run_ends_with_the_two_answers_of_one_prompt_and_progress_in_lines(data: Path, tmp_path: Path) -> None:
    done = allocate(*QUICK, "--dataset", data, "--outdir", tmp_path / "out")
    record = next(record for record in iter_results(tmp_path / "out") if record["raina"] != record["pa"])
    shown = done.stdout[: done.stdout.index("6 prompts answered")]
    for label, field in (("prompt:", "question"), ("greedy:", "pa"), ("RAIN:", "raina")):
        [line] = [line for line in shown.splitlines() if line.startswith(label)]
        assert line.removeprefix(label).split()[:1] == record[field].split()[:1]
    lines = [line for line in done.stderr.splitlines() if line.startswith("rain: ")]
    assert "6 of 6 prompts" in lines[-1] and len(lines) <= 3
    assert "\r" not in done.stderr


def test_results_are_the_same_for_one_and_two_workers_and_any_concurrency(flags: list[object], tmp_path: Path) -> None:
    runs = {"one": ["--concurrency", 1], "two": ["--nump", 2, "--concurrency", 1], "six": ["--concurrency", 6]}
    found = []
    for name, more in runs.items():
        done = allocate(*flags, *more, "--outdir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        found.append(answers(tmp_path / name))
    assert found[0] == found[1] == found[2]
    assert len({record["raina"] for record in found[0].values()}) == 6
    assert {path.name for path in result_paths(tmp_path / "two")} <= {"res_0.jsonl", "res_1.jsonl"}


def test_searches_compute_ahead_which_changes_what_is_asked_and_no_answer(flags: list[object], tmp_path: Path) -> None:
    runs = {"one": ["--concurrency", 1], "many, without": ["--concurrency", 6]}
    runs |= {"ahead": ["--concurrency", 1, "--prefetch", 3], "many": ["--concurrency", 6, "--prefetch", 3]}
    asked, moves = {}, []
    for name, more in runs.items():
        assert allocate(*flags, *more, "--outdir", tmp_path / name).returncode == 0
        records = [json.loads(line) for path in result_paths(tmp_path / name) for line in path.open()]
        moves.append({record["id"]: record["moves"] for record in records})
        asked[name] = sum(record["cost"]["rain"]["requests"] for record in records)
    assert all(found == moves[0] for found in moves)
    assert asked["ahead"] > asked["one"] == asked["many, without"] < asked["many"]


def test_a_range_gives_the_same_records_as_the_whole(flags: list[object], tmp_path: Path) -> None:
    flags += ["--outdir", tmp_path / "out"]
    assert allocate(*flags, "--s", 2, "--e", 4).returncode == 0
    part = answers(tmp_path / "out")
    assert [record["question"] for record in part.values()] == ["How do I fix a bike?", "Human: what?"]
    done = allocate(*flags)
    assert done.returncode == 0 and "2 of 6 prompts are done already" in done.stdout
    whole = answers(tmp_path / "out")
    assert len(whole) == 6 and part.items() <= whole.items()


@pytest.mark.parametrize("nump", [1, 2])
def test_a_run_killed_at_once_resumes_where_it_stopped_to_the_same_results(
    nump: int, many: Path, flags: list[object], tmp_path: Path
) -> None:
    flags += ["--dataset", many, "--nump", nump, "--concurrency", 1]
    assert allocate(*flags, "--outdir", tmp_path / "whole").returncode == 0
    outdir = tmp_path / "killed"
    with running(*flags, "--outdir", outdir, "--verbose") as process:
        read_until_commit(process, [2 + nump])
        os.killpg(process.pid, signal.SIGKILL)
    before = {path: path.read_bytes() for path in result_paths(outdir)}
    done = {record["id"] for record in iter_results(outdir)}
    assert 1 <= len(done) < MANY
    with next(iter(before)).open("ab") as file:
        file.write(b'{"id": "hh-00039-torn", "question')  # as if the kill had come while a record was written
    again = allocate(*flags, "--outdir", outdir)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of {MANY} prompts are done already" in again.stdout
    assert answers(outdir) == answers(tmp_path / "whole")
    kept = {path: content.rpartition(b"\n")[0] for path, content in before.items()}
    assert all(path.read_bytes().startswith(content) for path, content in kept.items())
    assert f"{MANY} of {MANY} prompts are done already" in allocate(*flags, "--outdir", outdir).stdout


def test_another_configuration_in_the_same_directory_is_refused_and_changes_nothing(
    flags: list[object], template: Path, tmp_path: Path
) -> None:
    outdir = tmp_path / "out"
    flags += ["--outdir", outdir, "--e", 1]
    assert allocate(*flags).returncode == 0
    before = {path.name: path.read_bytes() for path in outdir.iterdir() if path.name != ".lock"}
    for more in (["--seed", 1], ["--exploration", 0], ["--no-node-addition"], ["--votes", "soft"]):
        assert more[0].removeprefix("--").removeprefix("no-").replace("-", "_") in refusal(*flags, *more)
    template.write_text(LETTERS.replace("Is it kind?", "Is it nice?"))
    assert "template" in refusal(*flags)
    template.write_text(LETTERS)
    assert {path.name: path.read_bytes() for path in outdir.iterdir() if path.name != ".lock"} == before
    assert allocate(*flags, "--nump", 2, "--concurrency", 2, "--e", 2).returncode == 0


def test_a_prompt_that_fails_is_a_record_with_its_error_and_the_exit_code_says_so(
    flags: list[object], data: Path, tmp_path: Path
) -> None:
    save_questions(data, ("a", "b" * 3000, "c"))
    flags += ["--outdir", tmp_path / "out"]
    done = allocate(*flags)
    assert done.returncode == 1 and "2 prompts answered, 1 failed" in done.stdout
    first, failed, last = iter_results(tmp_path / "out")
    assert "error" not in first and "error" not in last
    assert set(failed) >= {"id", "question", "error", "model", "seed", "config"} and "raina" not in failed
    assert "no room" in failed["error"] and "Traceback" not in done.stderr
    again = allocate(*flags)
    assert again.returncode == 1 and "2 of 3 prompts are done already" in again.stdout
    assert len(list(iter_results(tmp_path / "out"))) == 3


def test_a_data_set_that_is_named_is_the_users_own_file_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load("hh")

    def question(*named: str) -> str:
        [prompt] = Allocation(parse(task, [*QUICK, "--e", "1", *named]).settings).prompts
        return prompt.question

    monkeypatch.chdir(task.folder)
    own, named = question(), ("--dataset", task.dataset)
    assert question(*named) == own
    monkeypatch.chdir(tmp_path)
    assert question(*named) == own, "there is no other file of this name"
    save_questions(tmp_path / task.dataset, ["Mine?"])
    assert (question(), question(*named)) == (own, "Mine?")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--nump", 0], "--nump is 0"),
        (["--concurrency", 0], "--concurrency is 0"),
        (["--s", 1000], "--s is 1000"),
        (["--engine", "abacus"], "--engine is 'abacus'"),
        (["--preset", "fast"], "--preset is 'fast'"),
        (["--templates", "none.txt"], "none.txt"),
        (["--templates", "a" * 300], "a" * 300),
        (["--calibration", "none.json"], "none.json"),
        (["--gpu-share", 2, "--launcher", "ray"], "--gpu-share is 2"),
        (["--cache-tokens", -1], "--cache-tokens is -1"),
        (["--modelname", "./no/such/model", "--engine", "hf", "--e", 1], "./no/such/model"),
    ],
)
def test_a_setting_that_cannot_work_is_named_in_one_sentence(flags: list[object], named: str, tmp_path: Path) -> None:
    assert named in refusal(*QUICK, "--outdir", tmp_path / "out", *flags)


def test_help_explains_every_flag_with_its_default_and_choices_and_begins_with_the_usual_ones() -> None:
    done = allocate("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for flag in "--nump --s --e --outdir --modelname --dataset --maxlen --max-new-tokens --dtype".split():
        assert f"\n  {flag} " in done.stdout
    text = " ".join(done.stdout.split())
    for part in ("(default: 50)", "(default: smollm2)", "(default: demo.jsonl)", "{local,ray}", "{hard,soft}"):
        assert part in text
    assert text.index("--modelname MODELNAME") < text.index("--launcher") < text.index("--exploration")


@pytest.mark.parametrize("command", ["ask", "serve", "preflight", "learn", "draw", "bench"])
def test_help_of_other_commands_begins_with_the_usual_flags_too(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    shown = shown[shown.index("options:") :]
    assert shown.index("  --modelname") < shown.index("  --encoder")
    assert shown.index("  --dtype {auto,float32,bfloat16,float16}") < shown.index("  --encoder")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--nonsense"], "unknown: --nonsense; see rain run hh --help"),
        (["--nump", "two"], "--nump"),
        (["--conc", 2], "did you mean --concurrency?"),
        (["--max-token", 2], "did you mean --max-new-tokens?"),
    ],
)
def test_a_flag_that_is_unknown_or_no_number_is_refused(flags: list[object], named: str) -> None:
    assert named in refusal(*QUICK, *flags)


def test_words_that_a_command_does_not_know_are_refused_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "Hi", "--gaol", "harmless"]) == 2
    assert capsys.readouterr().err == (
        "rain: error: unknown: --gaol harmless (did you mean --goal?); see rain ask --help\n"
    )


def test_rain_tells_its_version_and_refuses_unknown_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("rain ")
    assert cli.main(["run", "chess", "--nump", "2"]) == 2
    assert "chess" in capsys.readouterr().err


def test_a_checkout_that_was_never_installed_has_commands_but_no_version(monkeypatch, capsys):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", missing)
    assert cli.main(["run", "chess"]) == 2
    assert "chess" in capsys.readouterr().err


def test_a_judge_that_cannot_be_opened_is_named_before_the_first_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "RAIN_JUDGE_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    unknown = ("opnai:gpt", "openai:gpt-4", "hf:./no/such/folder", "hf:no/such", "fluency:no/such", "keywords:none")
    for judge in (*unknown, "hf:toy"):
        assert judge.partition(":")[2] in refusal(*QUICK, "--judge", judge, "--outdir", tmp_path / "out")
    assert "nothing to say" in refusal(*QUICK, "--judge", "keywords:modern", "--outdir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_password_in_an_address_is_kept_nowhere(tmp_path: Path) -> None:
    flags = ["--engine", "http", "--base-url", "http://user:hunter2@127.0.0.1:9/v1", "--outdir", tmp_path / "out"]
    sentence = refusal("--e", 1, *flags)
    assert "127.0.0.1:9" in sentence and "hunter2" not in sentence
    assert read_config(tmp_path / "out")["placement"]["base_url"] == "http://127.0.0.1:9"
    assert not [path for path in (tmp_path / "out").iterdir() if b"hunter2" in path.read_bytes()]


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(
    many: Path, flags: list[object], tmp_path: Path
) -> None:
    flags += ["--dataset", many, "--outdir", tmp_path / "out", "--verbose"]
    with running(*flags, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None and process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read() and process.wait() == 0
    assert len(list(iter_results(tmp_path / "out"))) == MANY


@pytest.mark.parametrize("stream", [">/dev/full", "2>/dev/full", ">&-", "2>&-"])
def test_a_run_needs_no_stream_to_speak_to(stream: str, data: Path, tmp_path: Path) -> None:
    shell = ["bash", "-c", f'"$@" {stream}', "bash"]
    done = allocate(*QUICK, "--dataset", data, "--outdir", tmp_path / "out", "--verbose", before=shell)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert len(list(iter_results(tmp_path / "out"))) == 6


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_characters_shows_them_as_escapes(encoding: str, tmp_path: Path) -> None:
    data = save_questions(tmp_path / "data.jsonl", ["What is \u2192 \U0001f600?"])
    before = ["env", f"PYTHONIOENCODING={encoding}", "LC_ALL=C"]
    done = allocate(*QUICK, "--dataset", data, "--outdir", tmp_path / "out", "--verbose", before=before)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "What is \\u2192 \\U0001f600?" in done.stdout


class Interrupt:
    """Interrupts the import of a module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.name:
            raise KeyboardInterrupt


@pytest.mark.parametrize("module", ["rain.launch", "rain.judges.command"])
def test_ctrl_c_while_a_command_is_imported_ends_it_with_one_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupt(module), *sys.meta_path])
    command = {"rain.launch": lambda: cli.main(["run", "hh"]), "rain.judges.command": lambda: cli.main(["judge", "x"])}
    assert command[module]() == 130
    [line] = capsys.readouterr().err.splitlines()
    assert line == "rain: interrupted; what is done is kept, and the same command continues"


def test_edited_rows_of_a_data_set_are_done_again_and_old_records_left_out(
    flags: list[object], data: Path, tmp_path: Path
) -> None:
    flags += ["--outdir", tmp_path / "out"]
    assert allocate(*flags, "--e", 3).returncode == 0
    save_questions(data, ["Is the sea salty?", "Why not", "How do I fix a bike?"])
    done = allocate(*flags)
    assert done.returncode == 0 and "2 of 3 prompts are done already" in done.stdout
    assert "left out: 1 record in" in done.stdout and "3 prompts answered, 0 failed" in done.stdout
    assert load_run(tmp_path / "out").left_out == 1 and len(load_run(tmp_path / "out").records) == 3
