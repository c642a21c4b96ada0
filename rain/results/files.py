"""Files that survive a crash: exclusive locks and atomic replacement (POSIX)."""

from __future__ import annotations

import errno
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rain.core.errors import RainError

RUN_FILES = re.compile(r"(res|scores)_.*\.jsonl|(config|prompts|left_out)\.json")
"""Names of the files in OUTDIR that a run and its judges write."""

_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def write_error(path: Path, error: OSError) -> RainError:
    """Return the error that tells the user why `path` could not be written and what to do."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RainError(f"cannot write {path}: {reason}; make room there and run the same command again")
    return RainError(f"cannot write {path}: {reason}")


@contextmanager
def locked(path: Path, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock; the kernel gives it up when the process ends, however it ends.

    Args:
        path: a file that exists for the lock alone, created if need be.
        busy: the error's message if another process keeps the lock.
        wait_s: how long to wait for that process (seconds).

    Raises:
        RainError: another process has the lock, or the file cannot be opened.
    """
    lock = FileLock(path, timeout=-1 if wait_s == math.inf else wait_s, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RainError(busy) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS_HERE:
            raise write_error(path, error) from error
        warnings.warn(f"{path} is on a file system without locks: start one run at a time there", stacklevel=3)
    try:
        yield
    finally:
        lock.release()


def check_writable(path: Path) -> None:
    """Raise a RainError if a file cannot be written, or is a run's own; better before the work than after it."""
    folder = path.parent
    if RUN_FILES.fullmatch(path.name) and (folder / "config.json").is_file():
        raise RainError(f"{path} is a file of the run in {folder}, which would be lost; choose another name")
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RainError(f"cannot write {path}: {folder} is not a folder that can be written to, or {path} is a folder")


def write_atomic(path: Path, data: bytes | Iterable[bytes], mode: int = 0o666) -> None:
    """Replace a file so that a crash leaves either the old content or the new; after return the new is on disk.

    Its permissions are ``mode`` less those that the process's umask takes away.

    Raises:
        RainError: the disk is full or the place cannot be written; the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make new and renamed names in a directory durable, where the file system can do that.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
