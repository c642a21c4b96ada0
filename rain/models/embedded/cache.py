"""The folder of prepared models: each is built once, by one process, and is complete as soon as its name exists.

What is found there is used only if nobody else can have put it there or changed it, and if it is as it was prepared.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rain.core.errors import RainError
from rain.results.files import locked, sync_directory, write_atomic, write_error

MANIFEST = ".rain-manifest"
"""In each folder: the size of every file, and the SHA-256 sum of those that are read as text."""

HASHED_UP_TO = 1 << 20
"""Larger files (bytes), which are weights and vocabularies, are known by their size alone."""


def cache_dir() -> Path:
    """Return the folder for prepared models: RAIN_CACHE, or else ~/.cache/rain."""
    return Path(os.environ.get("RAIN_CACHE") or "~/.cache/rain").expanduser().absolute()


def build_once(key: str, build: Callable[[Path], Path], notice: str = "preparing a model ...") -> Path:
    """Return the folder `key` of the cache; build it first if it is missing.

    Of several processes one builds while the others wait. A process that dies leaves only a hidden folder, which the
    next build of the same key removes.

    Args:
        key: name of the folder; different content needs a different key.
        build: is given an empty scratch folder in the cache and returns the finished folder inside it.
        notice: printed on stderr before building.

    Raises:
        RainError: the cache cannot be written (such as a full disk), other users can write to it, the folder is not
            as it was prepared, or `build` says so.
    """
    folder = cache_dir() / key
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise _cache_error(folder.parent, error) from error
    check_private(folder.parent)
    if not folder.is_dir():
        with locked(folder.with_name(f".{folder.name}.lock"), f"another process prepares {folder}", wait_s=math.inf):
            try:
                if not folder.is_dir():
                    print(f"rain: {notice}", file=sys.stderr, flush=True)
                    _build(folder, build)
            except OSError as error:
                raise _cache_error(folder, error) from error
    check_private(folder)
    _check_manifest(folder)
    return folder


def check_private(folder: Path) -> None:
    """Raise a RainError if another user than root owns a folder, or can write to it or rename what is in it."""
    found, own = folder.stat(), os.getuid()
    rename = "; RAIN_CACHE names another folder for prepared models"
    if found.st_uid not in (own, 0):
        raise RainError(f"{folder} belongs to another user, who could change the models in it{rename}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        trust = f"run `chmod go-w {folder}` if you trust what is in it"
        raise RainError(f"other users can write to {folder}: {trust}{rename}")


def _contents(folder: Path) -> dict[str, list[int | str]]:
    """Return size and checksum of each file; hidden ones, such as the manifest, are left out."""

    def entry(file: Path) -> list[int | str]:
        size = file.stat().st_size
        return [size, hashlib.sha256(file.read_bytes()).hexdigest() if size <= HASHED_UP_TO else ""]

    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(f.relative_to(folder)): entry(f) for f in files if not f.name.startswith(".")}


def _check_manifest(folder: Path) -> None:
    """Compare a folder with its manifest; one of an earlier version, which has none, gets one."""
    manifest, now = folder / MANIFEST, _contents(folder)
    if not manifest.exists():
        with suppress(RainError):
            write_atomic(manifest, json.dumps(now, indent=1).encode())
        return
    try:
        then = json.loads(manifest.read_bytes())
        changed = sorted(name for name, entry in then.items() if now.get(name) != entry)
    except (OSError, ValueError, AttributeError, RecursionError):
        changed = [MANIFEST]
    if changed:
        raise RainError(f"{folder} is not as it was prepared ({changed[0]}); delete it and it is made again")


def _cache_error(path: Path, error: OSError) -> RainError:
    return RainError(f"{write_error(path, error)}; RAIN_CACHE names another folder for prepared models")


def _build(folder: Path, build: Callable[[Path], Path]) -> None:
    prefix = f".{folder.name}.build-"
    for leftover in folder.parent.glob(f"{prefix}*"):  # left by processes that died: a live one would have the lock
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        finished = build(Path(scratch))
        (finished / MANIFEST).write_text(json.dumps(_contents(finished), indent=1), encoding="utf-8")
        for path in (finished, *finished.rglob("*")):
            _publish(path)
        os.replace(finished, folder)
    sync_directory(folder.parent)


def _publish(path: Path) -> None:
    """Sync a file to disk and let everybody read it: a cache may be shared."""
    path.chmod(0o755 if path.is_dir() else 0o644)
    if path.is_file():
        with open(path, "rb") as opened:
            os.fsync(opened.fileno())
