"""Result files survive kills, full disks and second runs; every record is read back as it was written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rain.core.errors import RainError
from rain.results.configfile import config_hash
from rain.results.files import write_atomic
from rain.results.jsonl import ResultWriter, scan
from rain.results.run_dir import OutDir, read_results, result_paths

CONFIG = {"task": "hh", "run": {"modelname": "smollm2", "nump": 1}, "rain": {"token_set_lengths": (1, 2), "top_k": 15}}
HOLD = """
import sys
from pathlib import Path
from rain.{module} import {name}
kept = {call}
print("held", flush=True)
sys.stdin.read()
"""
TEXTS = [
    "",
    "a\nb\r\n",
    "\u2028\u2029\x85\x0b\x00",
    "lone \ud800 \udfff",
    "\U0001f600 \u0301 \ufdd0",
    '"}\n{"id": "x"}',
]


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)


def holding(module: str, name: str, call: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that opens something at `path` and keeps it open."""
    process = child(HOLD.format(module=module, name=name, call=call), path)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def write_all(path: Path, *records: dict[str, object]) -> None:
    with ResultWriter(path) as writer:
        for record in records:
            writer.write(record)


def ids(path: Path) -> list[str]:
    return [line.record["id"] for line in scan(path).lines]


def test_every_text_is_read_back_as_it_was_written_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    everything = " ".join(chr(code) for code in range(0x110000) if code % 97 == 0)
    records = [{"id": str(number), "raina": text} for number, text in enumerate([*TEXTS, everything])]
    write_all(path, *records)
    assert path.read_bytes().count(b"\n") == len(records)
    assert [line.record for line in scan(path).lines] == records
    assert "\U0001f600".encode() in path.read_bytes()


def test_a_last_line_cut_at_any_byte_is_repaired_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    OutDir(tmp_path, CONFIG).close()
    first, last = {"id": "a", "raina": "é"}, {"id": "b", "raina": '\ud800 {"id": "c"} é \U0001f600'}
    write_all(path, first)
    begin = path.stat().st_size
    write_all(path, last)
    whole = path.read_bytes()
    assert len(whole) - begin > 50
    for cut in range(begin, len(whole) + 1):
        survives = cut >= len(whole) - 1  # only the newline is missing, or nothing
        kept = [first, last] if survives else [first]
        path.write_bytes(whole[:cut])
        assert [line.record for line in scan(path).lines] == kept
        torn = begin < cut < len(whole) - 1
        with OutDir(tmp_path, CONFIG) as outdir:
            assert outdir.resume(["a", "b"]) == ({record["id"] for record in kept}, 0, int(torn))
        assert path.read_bytes() == (whole if survives else whole[:begin])
        path.write_bytes(whole[:cut])
        write_all(path, {"id": "n"})
        assert [line.record for line in scan(path).lines] == [*kept, {"id": "n"}]


def test_zeros_that_a_power_cut_left_behind_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    write_all(path, {"id": "a"})
    path.write_bytes(path.read_bytes() + b"\0" * 4096)
    write_all(path, {"id": "b"})
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n'


@pytest.mark.parametrize("damage", [b'{"id": "b"', b'{"noid": 1}', b'{"id": 3}', b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "res_0.jsonl"
    content = b'{"id": "a"}\n' + damage + b'\n{"id": "c"}\n'
    path.write_bytes(content)
    with pytest.raises(RainError, match=r"res_0\.jsonl, line 2 "):
        ResultWriter(path)
    assert path.read_bytes() == content


def test_a_number_that_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "res_0.jsonl") as writer:
        with pytest.raises(ValueError):
            writer.write({"id": "a", "value": float("nan")})
        writer.write({"id": "b"})
    assert ids(tmp_path / "res_0.jsonl") == ["b"]


FILL = """
import resource, sys
from pathlib import Path
from rain.core.errors import RainError
from rain.results.jsonl import ResultWriter
path = Path(sys.argv[1])
with ResultWriter(path) as writer:
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        for number in range(10**6):
            writer.write({"id": str(number), "raina": "x" * 150})
    except RainError as error:
        print(number, path.read_bytes()[-1:] == b"\\n", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if len(sys.argv) > 2:
        writer.write({"id": "later"})
    print(path.read_text().splitlines()[-1])
"""


@pytest.mark.parametrize("limit", range(1000, 1003))
def test_a_file_size_limit_leaves_whole_lines_and_a_clear_error(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "res_0.jsonl"
    out, err = child(FILL, path, limit).communicate()
    written, whole, message = out.splitlines()[0].split(" ", 2)
    assert (err, whole, int(written)) == ("", "True", 5)  # lines of 179 bytes
    assert message == f"cannot write {path}: File too large; make room there and run the same command again"
    assert ids(path) == ["0", "1", "2", "3", "4", "later"]


def test_a_full_disk_leaves_whole_lines_and_a_clear_error(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=16k none "$1" && exec "$2" -c "$3" "$1/res_0.jsonl"'
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs a user namespace for a small tmpfs")
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FILL]
    done = subprocess.run(command, capture_output=True, text=True)
    if "mount" in done.stderr:
        pytest.skip("may not mount a tmpfs")
    lines = done.stdout.splitlines()
    written, whole, message = lines[0].split(" ", 2)
    assert whole == "True" and "No space left on device; make room" in message
    assert int(written) > 50 and json.loads(lines[1])["id"] == str(int(written) - 1)


def test_the_second_run_in_an_outdir_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    first = holding("results.writer", "OutDir", f"OutDir(sys.argv[1], {CONFIG})", tmp_path)
    try:
        with pytest.raises(RainError, match=rf"another run \(process {first.pid} on .*\) is using {tmp_path}; wait"):
            OutDir(tmp_path, CONFIG)
    finally:
        kill(first)
    with OutDir(tmp_path, CONFIG), pytest.raises(RainError, match="another run"):
        OutDir(tmp_path, CONFIG)
    OutDir(tmp_path, CONFIG).close()


def test_an_orphaned_worker_keeps_others_from_its_file_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    orphan = holding("results.records", "ResultWriter", "ResultWriter(Path(sys.argv[1]))", path)
    with pytest.raises(RainError, match="is being written by another process"):
        ResultWriter(path, wait_s=0)
    kill(orphan)
    ResultWriter(path, wait_s=0).close()


def test_who_opens_a_file_just_before_it_is_replaced_appends_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "res_0.jsonl"
    lock = fcntl.flock

    def replace_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr("fcntl.flock", lock)
        write_atomic(path, b'{"id": "early"}\n')
        lock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", replace_first)
    write_all(path, {"id": "late"})
    assert ids(path) == ["early", "late"]


def test_a_different_configuration_is_refused_and_its_fields_are_named(tmp_path: Path) -> None:
    OutDir(tmp_path, CONFIG).close()
    before = (tmp_path / "config.json").read_bytes()
    other = {**CONFIG, "rain": {"top_k": 20}, "run": {"modelname": "gemma3-270m", "nump": 1}}
    with pytest.raises(RainError) as caught:
        OutDir(tmp_path, other)
    assert str(caught.value) == (
        f"{tmp_path} holds results of a different configuration ("
        'run.modelname: "smollm2" there, "gemma3-270m" here; '
        "rain.token_set_lengths: [1, 2] there, absent here; rain.top_k: 15 there, 20 here); "
        "give another --outdir, or the settings of the first run"
    )
    assert (tmp_path / "config.json").read_bytes() == before
    OutDir(tmp_path, CONFIG).close()


def test_a_volatile_field_may_change_and_does_not_enter_the_hash(tmp_path: Path) -> None:
    more = {**CONFIG, "run": {"nump": 8, "modelname": "smollm2"}}
    with OutDir(tmp_path, CONFIG, ["run.nump"]) as outdir:
        first = outdir.config_hash
    with OutDir(tmp_path, more, ["run.nump"]) as outdir:
        assert outdir.config_hash == first == config_hash(more, ["run.nump"]) != config_hash(CONFIG)
    stored = json.loads((tmp_path / "config.json").read_bytes())
    assert stored["run"]["nump"] == 8 and stored["hash"] == first and len(first) == 16


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RainError, match=r"config\.json is not (a )?JSON"):
        OutDir(tmp_path, CONFIG)


def test_results_without_a_config_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path / "res_0.jsonl", {"id": "a"})
    with pytest.raises(RainError, match="no config.json"):
        OutDir(tmp_path, CONFIG)


def test_an_outdir_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RainError, match=r"cannot write .*/file/sub: Not a directory"):
        OutDir(tmp_path / "file" / "sub", CONFIG)


def test_resume_leaves_every_prompt_once_and_frees_failed_ones(tmp_path: Path) -> None:
    failed = {"error": "out of memory"}
    with OutDir(tmp_path, CONFIG) as outdir:
        write_all(outdir.result_path(0), {"id": "a"}, {"id": "b", **failed}, {"id": "c", **failed})
        write_all(outdir.result_path(10), {"id": "c"}, {"id": "a", "second": 1}, {"id": "out", **failed})
        write_all(outdir.result_path("lost"), {"id": "d", **failed})
        assert outdir.done_ids() == {"a", "c"} and outdir.done_ids(errors=True) == {"a", "b", "c", "d", "out"}
        assert outdir.resume(["a", "b", "c", "d", "new"]) == ({"a", "c"}, 2, 0)
    paths = result_paths(tmp_path)
    assert [path.name for path in paths] == ["res_0.jsonl", "res_10.jsonl", "res_lost.jsonl"]
    assert [ids(path) for path in paths] == [["a"], ["c", "out"], []]


def test_read_results_gives_one_record_a_prompt_and_prefers_answers(tmp_path: Path) -> None:
    write_all(tmp_path / "res_0.jsonl", {"id": "b", "n": 1}, {"id": "a", "error": "x"}, {"id": "c", "error": "old"})
    write_all(tmp_path / "res_1.jsonl", {"id": "a", "n": 2}, {"id": "b", "error": "y"}, {"id": "c", "error": "new"})
    assert read_results(tmp_path) == [{"id": "a", "n": 2}, {"id": "b", "n": 1}, {"id": "c", "error": "new"}]
    with pytest.raises(RainError, match="there is no directory"):
        read_results(tmp_path / "none")
