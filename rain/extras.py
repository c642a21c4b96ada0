"""Optional libraries, which extras of the package install."""

from __future__ import annotations

from importlib.util import find_spec

from rain.core.errors import RainError


def need(user: str, extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed.

    Raises:
        RainError: one is not; the message names ``user``, what is missing and how to install it.
    """
    if missing := [name for name in modules if find_spec(name) is None]:
        raise RainError(f"{user} needs {', '.join(missing)}; in RAIN's folder: pip install -e '.[{extra}]'")
