"""Files that survive a crash: exclusive locks and atomic replacement (POSIX)."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import warnings
from pathlib import Path

from rain.core.errors import RainError

_POLL_S = 0.02
_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def write_error(path: Path, error: OSError) -> RainError:
    """Return the error that tells the user why `path` could not be written and what to do."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RainError(f"cannot write {path}: {reason}; make room there and run the same command again")
    return RainError(f"cannot write {path}: {reason}")


def open_locked(path: Path, wait_s: float = 0.0) -> int | None:
    """Open a file for reading and appending under an exclusive lock, creating it if need be.

    The kernel gives the lock up when the process ends, however it ends. A file that was replaced or removed while this
    call waited is opened anew, so that nobody appends to a file without a name.

    Args:
        path: the file; its directory must exist.
        wait_s: how long to wait for another process that holds the lock (seconds).

    Returns:
        A file descriptor that the caller closes, or None if another process still holds the lock.

    Raises:
        RainError: the file cannot be opened.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise write_error(path, error) from error
        if _try_lock(descriptor, path):
            if _is_named(descriptor, path):
                return descriptor
        elif time.monotonic() >= deadline:
            os.close(descriptor)
            return None
        else:
            time.sleep(_POLL_S)
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise write_error(path, error) from error
        warnings.warn(f"{path} lies on a file system without locks: start one run at a time there", stacklevel=3)
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file so that a crash leaves either the old content or the new, and the new is on the disk after return.

    Raises:
        RainError: the disk is full or the place cannot be written; the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def sync_directory(path: Path) -> None:
    """Make new and renamed names in a directory durable.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
