"""How every command ends: one sentence for an error or Ctrl-C, and nothing for a reader that is gone."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rain.core.errors import RainError
from rain.terminal import prepare_streams, printable, say, silence

INTERRUPTED = 130


def guarded(work: Callable[[], int], *, resumes: bool = False) -> int:
    """Do the work of a command; return its exit code, 2 after a RainError or a file's error, 130 after Ctrl-C.

    Args:
        work: returns the exit code.
        resumes: whether the same command would continue where this one was interrupted.
    """
    prepare_streams()
    try:
        code = work()
        sys.stdout.flush()
        return code
    except RainError as error:
        say(printable(f"rain: error: {error}"), sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; what is done is kept, and the same command continues" if resumes else ""
        say(f"rain: interrupted{kept}", sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return 1
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        say(printable(f"rain: error: {where}{error.strerror or error}"), sys.stderr)
        return 2
