"""Who may ask: keys by name, of which the server keeps digests only."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from rain.core.errors import RainError

SCHEME = "sha256:"
SHORTEST = 16
"""Characters of a key at least: shorter ones can be guessed."""


class Keys:
    """Digests of keys by their names.

    Args:
        digests: SHA-256 of each key by name; empty: everybody may ask.
    """

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def from_file(cls, path: str) -> Keys:
        """Read lines of ``NAME KEY`` or ``NAME sha256:HEX``; empty ones and those that begin with # are left out.

        Raises:
            RainError: the file cannot be read, or a line is something else; the message names its number, not the key.
        """
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RainError(f"--api-key-file {path} cannot be read: {reason}") from error
        digests: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, _, key = line.strip().partition(" ")
            digest = _digest(key.strip())
            if digest is None or name in digests:
                raise RainError(
                    f"{path}, line {number}: write NAME KEY (at least {SHORTEST} characters) or NAME sha256:HEX, and "
                    "each name once"
                )
            digests[name] = digest
        if not digests:
            raise RainError(f"{path} has no key; write lines of NAME KEY")
        return cls(digests)

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def name(self, authorization: str) -> str | None:
        """Return whose key a header ``Bearer KEY`` has, None if nobody's; it takes the same time for every key."""
        scheme, _, key = authorization.partition(" ")
        given, found = hashlib.sha256(key.strip().encode("latin-1")).digest(), None  # a header's bytes, as they came
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found if scheme.casefold() == "bearer" else None


def _digest(key: str) -> bytes | None:
    if not key.startswith(SCHEME):
        return hashlib.sha256(key.encode()).digest() if len(key) >= SHORTEST and " " not in key else None
    try:
        digest = bytes.fromhex(key[len(SCHEME) :])
    except ValueError:
        return None
    return digest if len(digest) == hashlib.sha256().digest_size else None
