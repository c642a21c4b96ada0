"""The folder of prepared models: each is built once, by one process, and is complete as soon as its name exists."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rain.core.errors import RainError
from rain.results.files import locked, sync_directory, write_error


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
        RainError: the cache cannot be written (such as a full disk), or `build` says so.
    """
    folder = cache_dir() / key
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cache_error(folder.parent, error) from error
    with locked(folder.with_name(f".{folder.name}.lock"), f"another process prepares {folder}", wait_s=math.inf):
        try:
            if not folder.is_dir():
                print(f"rain: {notice}", file=sys.stderr, flush=True)
                _build(folder, build)
        except OSError as error:
            raise _cache_error(folder, error) from error
    return folder


def _cache_error(path: Path, error: OSError) -> RainError:
    return RainError(f"{write_error(path, error)}; RAIN_CACHE names another folder for prepared models")


def _build(folder: Path, build: Callable[[Path], Path]) -> None:
    prefix = f".{folder.name}.build-"
    for leftover in folder.parent.glob(f"{prefix}*"):  # left by processes that died: a live one would have the lock
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        finished = build(Path(scratch))
        for file in filter(Path.is_file, finished.rglob("*")):
            _publish(file)
        os.replace(finished, folder)
    sync_directory(folder.parent)


def _publish(file: Path) -> None:
    """Sync a file to disk and let everybody read it: a cache may be shared."""
    file.chmod(0o644)
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
