"""Result files survive kills, full disks and second runs; every record is read back as it was written."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rain.core.errors import RainError
from rain.results.files import locked
from rain.results.inputs import Inputs, fingerprint
from rain.results.jsonl import Record, ResultWriter, read_records
from rain.results.run_dir import FORMAT, RunDir, iter_results, read_config, result_paths

CONFIG = {"task": "hh", "model": {"modelname": "smollm2"}, "search": {"token_set_lengths": (1, 2), "top_k": 15}}
PROMPTS = dict.fromkeys(("a", "b", "c", "d", "new"), "")
HOLD = """
import sys
from rain.results.inputs import Inputs
from rain.results.run_dir import RunDir
kept = RunDir(sys.argv[1], {}, "hash", {}, Inputs("", {}, ""))
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
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def open_dir(path: Path, weights: str = "", prompts: dict[str, str] = PROMPTS, **config: object) -> RunDir:
    """Open a run directory with a configuration that differs from CONFIG in some fields."""
    return RunDir(path, {**CONFIG, **config}, "0123456789abcdef", {}, Inputs("data", prompts, weights))


def write_all(path: Path, *records: dict[str, object]) -> None:
    with ResultWriter(path) as writer:
        for record in records:
            writer.write(record)


def read(path: Path) -> list[Record]:
    return [record for _, record in read_records(path)]


def ids(path: Path) -> list[str]:
    return [record["id"] for record in read(path)]


def test_every_text_is_read_back_as_it_was_written_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    everything = " ".join(chr(code) for code in range(0x110000) if code % 97 == 0)
    records = [{"id": str(number), "raina": text} for number, text in enumerate([*TEXTS, everything])]
    write_all(path, *records)
    assert path.read_bytes().count(b"\n") == len(records)
    assert read(path) == records
    assert "\U0001f600".encode() in path.read_bytes()


def test_a_last_line_cut_at_any_byte_is_repaired_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    open_dir(tmp_path).close()
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
        assert read(path) == kept
        with open_dir(tmp_path) as run_dir:
            assert run_dir.resume(["a", "b"]) == {record["id"] for record in kept}
        assert path.read_bytes() == (whole if survives else whole[:begin])
        path.write_bytes(whole[:cut])
        write_all(path, {"id": "n"})
        assert read(path) == [*kept, {"id": "n"}]


def test_zeros_that_a_power_cut_left_behind_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    write_all(path, {"id": "a"})
    path.write_bytes(path.read_bytes() + b"\0" * 4096)
    write_all(path, {"id": "b"})
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n'


@pytest.mark.parametrize(
    "damage", [b'{"id": "b"', b'{"id": "b", "n": ?}', b'{"noid": 1}', b'{"id": 3}', b"[1]", b"\xff", b"[" * 100_000]
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "res_0.jsonl"
    (tmp_path / "config.json").write_text(json.dumps({"format": FORMAT, **CONFIG}))
    content = b'{"id": "a"}\n' + damage + b'\n{"id": "c"}\n'
    path.write_bytes(content)
    for look in (lambda: open_dir(tmp_path).resume(["a"]), lambda: list(iter_results(tmp_path))):
        with pytest.raises(RainError, match=r"res_0\.jsonl, line 2 "):
            look()
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
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        for number in range(10**6):
            writer.write({"id": str(number), "raina": "x" * 150})
    except RainError as error:
        print(number, path.read_bytes()[-1:] == b"\\n", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.write({"id": "later"})
"""


@pytest.mark.parametrize("limit", range(1000, 1003))
def test_a_file_size_limit_leaves_whole_lines_and_a_clear_error(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "res_0.jsonl"
    out, err = child(FILL, path, limit).communicate()
    written, whole, message = out.split(" ", 2)
    assert (err, whole, int(written)) == ("", "True", 5)  # lines of 179 bytes
    assert str(path) in message and "File too large; make room there" in message
    assert ids(path) == ["0", "1", "2", "3", "4", "later"]


def test_the_second_run_in_an_outdir_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    first = child(HOLD, tmp_path)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    try:
        with pytest.raises(RainError, match=rf"another run \(process {first.pid} on .*{tmp_path}"):
            open_dir(tmp_path)
    finally:
        first.kill()
        first.communicate()
    with open_dir(tmp_path), pytest.raises(RainError, match="another run"):
        open_dir(tmp_path)
    open_dir(tmp_path).close()


@pytest.mark.parametrize("wait_s", [0.0, 0.1])
def test_a_lock_has_one_owner_at_a_time(tmp_path: Path, wait_s: float) -> None:
    file = tmp_path / ".lock"
    with locked(file, "busy"), pytest.raises(RainError, match="^busy$"), locked(file, "busy", wait_s):
        pass
    with locked(file, "busy", wait_s=math.inf):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RainError, match="cannot write .*lock"), locked(tmp_path / "file" / "lock", "busy"):
        pass


def test_a_different_configuration_is_refused_and_its_fields_are_named(tmp_path: Path) -> None:
    with open_dir(tmp_path) as run_dir:
        run_dir.write(0, {"id": "a"})
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(RainError) as caught:
        open_dir(tmp_path, search={"top_k": 20}, model={"modelname": "gemma3-270m"})
    for named in (
        'model.modelname: "smollm2" there, "gemma3-270m" here',
        "search.token_set_lengths: [1, 2] there, absent here",
        "search.top_k: 15 there, 20 here",
        str(tmp_path),
    ):
        assert named in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before
    open_dir(tmp_path).close()


def test_the_configuration_of_a_run_that_wrote_nothing_may_be_corrected(tmp_path: Path) -> None:
    open_dir(tmp_path, model={"modelname": "smolm2"}).close()
    open_dir(tmp_path).close()
    assert read_config(tmp_path)["model"] == {"modelname": "smollm2"}


def test_details_may_change_and_are_recorded(tmp_path: Path) -> None:
    for nump in (1, 8):
        with RunDir(tmp_path, CONFIG, "0123456789abcdef", {"run": {"nump": nump}}, Inputs("", {}, "")) as run_dir:
            run_dir.write(nump, {"id": str(nump)})
    stored = read_config(tmp_path)
    assert (stored["run"], stored["hash"], stored["format"]) == ({"nump": 8}, "0123456789abcdef", FORMAT)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"hash": "0", "task": "hh"}, "absent"),
        ({"hash": "0", "task": "hh", "format": 3}, "3"),
        ({"model_type": "llama"}, "absent"),
    ],
)
def test_a_folder_of_another_format_or_something_else_is_not_continued_but_can_be_read(
    tmp_path: Path, config: dict[str, object], named: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_all(tmp_path / "res_0.jsonl", {"id": "a"})
    with pytest.raises(RainError) as caught:
        open_dir(tmp_path)
    assert all(part in str(caught.value) for part in (str(tmp_path), f"'format' is {named}", "--outdir"))
    assert read_config(tmp_path) == config and list(iter_results(tmp_path)) == [{"id": "a"}]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RainError, match=r"config\.json is not (a )?JSON"):
        open_dir(tmp_path)


def test_results_without_a_config_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path / "res_0.jsonl", {"id": "a"})
    with pytest.raises(RainError, match="no config.json"):
        open_dir(tmp_path)


def test_an_outdir_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RainError, match=r"cannot write .*/file/sub: Not a directory"):
        open_dir(tmp_path / "file" / "sub")


def test_resume_leaves_what_is_written_and_frees_failed_prompts(tmp_path: Path) -> None:
    failed = {"error": "out of memory"}
    with open_dir(tmp_path) as run_dir:
        for worker, record in (
            (0, {"id": "a"}),
            (0, {"id": "b", **failed}),
            (0, {"id": "c", **failed}),
            (10, {"id": "c"}),
            (10, {"id": "a", "second": 1}),
            (10, {"id": "out", **failed}),
            ("lost", {"id": "d", **failed}),
        ):
            run_dir.write(worker, record)
    with open_dir(tmp_path) as run_dir:
        assert run_dir.resume(["a", "b", "c", "d", "new"]) == {"a", "c"}
    paths = result_paths(tmp_path)
    assert [path.name for path in paths] == ["res_0.jsonl", "res_10.jsonl", "res_lost.jsonl"]
    assert [ids(path) for path in paths] == [["a", "b", "c"], ["c", "a", "out"], ["d"]]
    assert [record["id"] for record in iter_results(tmp_path) if "error" not in record] == ["a", "c"]


def test_lines_that_others_have_written_are_understood_as_json_is(tmp_path: Path) -> None:
    path = tmp_path / "res_0.jsonl"
    path.write_bytes(b' {"error":1,"id":"a"} \n\n{"id": "a", "id": "b", "x": 1e400}\n{"id": "last"}')
    assert read(path) == [{"error": 1, "id": "a"}, {"id": "b", "x": math.inf}, {"id": "last"}]


def test_a_copy_of_a_result_file_and_what_a_crash_left_do_not_count(tmp_path: Path) -> None:
    open_dir(tmp_path).close()
    write_all(tmp_path / "res_0.jsonl", {"id": "a"})
    for name in ("res_0_backup.jsonl", "res_old.jsonl", "res_0.jsonl.bak"):
        shutil.copy(tmp_path / "res_0.jsonl", tmp_path / name)
    for name in (".left_out.json.77.tmp", ".config.json.77.tmp"):
        (tmp_path / name).touch()
    with open_dir(tmp_path) as run_dir:
        assert run_dir.resume(["a"]) == {"a"}
    assert [path.name for path in result_paths(tmp_path)] == ["res_0.jsonl"]
    assert ids(tmp_path / "res_0_backup.jsonl") == ["a"] and not list(tmp_path.glob(".*.tmp"))


def test_a_file_system_that_cannot_sync_directories_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    with open_dir(tmp_path) as run_dir:
        run_dir.write(0, {"id": "a"})
    assert ids(tmp_path / "res_0.jsonl") == ["a"]


def test_records_of_prompts_that_left_the_data_set_are_counted_and_do_not_count(tmp_path: Path) -> None:
    with open_dir(tmp_path, prompts={"a": "", "b": ""}) as run_dir:
        run_dir.resume(["a", "b"])
        run_dir.write(0, {"id": "a"})
        run_dir.write(0, {"id": "b", "error": "x"})
    with open_dir(tmp_path, prompts={"b": "", "c": ""}) as run_dir:
        assert run_dir.resume(["b", "c"]) == set() and run_dir.left_out == 1
    assert json.loads((tmp_path / "prompts.json").read_text()) == {"b": "", "c": ""}
    open_dir(tmp_path, prompts={"b": "", "c": ""}).resume(["b", "c"])
    again = open_dir(tmp_path, prompts={"a": "changed", "b": ""})
    with again as run_dir, pytest.raises(RainError, match=r"records of 1 prompts .*\(a "):
        run_dir.resume(["a", "b"])
    assert read_config(tmp_path)["data"]["prompts"] == 2 and set(read_config(tmp_path)["versions"]) >= {"torch"}


def test_changed_reference_answers_are_noticed_where_there_are_records(tmp_path: Path) -> None:
    with open_dir(tmp_path, prompts={"a": "1", "b": "1"}) as run_dir:
        run_dir.resume(["a", "b"])
        run_dir.write(0, {"id": "a"})
    open_dir(tmp_path, prompts={"a": "1", "b": "2"}).resume(["a", "b"])
    for _ in range(2):
        with (
            open_dir(tmp_path, prompts={"a": "2", "b": "2"}) as run_dir,
            pytest.raises(RainError, match=r"records of 1 prompts .*\(a "),
        ):
            run_dir.resume(["a", "b"])


def test_other_weights_under_the_same_name_are_refused_and_unknown_ones_are_not(tmp_path: Path) -> None:
    with open_dir(tmp_path, "one") as run_dir:
        run_dir.write(0, {"id": "a"})
    open_dir(tmp_path).close()
    with open_dir(tmp_path / "fetched") as run_dir:
        run_dir.know_weights("one")
        run_dir.write(0, {"id": "a"})
    for path in (tmp_path, tmp_path / "fetched"):
        with pytest.raises(RainError, match='weights: "one" there, "two" here'):
            open_dir(path, "two")
    open_dir(tmp_path, "one").close()
    open_dir(tmp_path, "one-more").close()  # "one" is what earlier versions wrote of these


@pytest.mark.parametrize("change", ["header", "middle", "end", "size", "config.json", "nothing"])
def test_the_fingerprint_of_a_folder_changes_with_its_files(tmp_path: Path, change: str) -> None:
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    content = bytearray((2 << 20).to_bytes(8, "little") + bytes(5 << 20))
    weights.write_bytes(content)
    before = fingerprint(tmp_path)
    if change == "middle":  # one layer of many
        content[5 << 19 : 6 << 19] = b"x" * (1 << 19)
    if change in ("header", "end"):
        content[(3 << 19) if change == "header" else -1] = 1
    weights.write_bytes(content + b"x" * (change == "size"))
    (tmp_path / "config.json").write_text("[]" if change == "config.json" else "{}")
    (tmp_path / "README.md").write_text("read me")
    assert (fingerprint(tmp_path) == before) == (change == "nothing")


def test_the_revision_of_a_hub_model_is_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert fingerprint("owner/name") == ""
    revision = tmp_path / "models--owner--name" / "refs" / "main"
    revision.parent.mkdir(parents=True)
    revision.write_text("0123abcd")
    assert fingerprint("owner/name") == "0123abcd"


def test_iter_results_gives_one_record_a_prompt_and_prefers_answers(tmp_path: Path) -> None:
    write_all(tmp_path / "res_0.jsonl", {"id": "b", "n": 1}, {"id": "a", "error": "x"}, {"id": "c", "error": "old"})
    write_all(tmp_path / "res_1.jsonl", {"id": "a", "n": 2}, {"id": "b", "error": "y"}, {"id": "c", "error": "new"})
    assert list(iter_results(tmp_path)) == [{"id": "a", "n": 2}, {"id": "b", "n": 1}, {"id": "c", "error": "new"}]
    with pytest.raises(RainError, match="there is no directory"):
        list(iter_results(tmp_path / "none"))
