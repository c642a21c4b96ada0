"""How a sentence encoder makes one vector of its hidden states: sentence-transformers keeps it with the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rain.core.errors import RainError
from rain.models.embedded.convert import first_line
from rain.models.hub import hub_reachable
from rain.models.loading import resolve

POOLING = "1_Pooling/config.json"


def pools_cls(name: str | Path) -> bool:
    """Return whether a sentence encoder's text is the hidden state of its first token, not the mean over all.

    Its ``1_Pooling/config.json`` says so; without that file it is the mean.

    Raises:
        RainError: it is something else, such as the last token.
    """
    try:
        data = json.loads(_pooling_file(resolve(name)) or '{"pooling_mode": "mean"}')
        modes = {mode.removesuffix("_token").removesuffix("_tokens") for mode in _pooling_modes(data)}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise RainError(f"cannot read {POOLING} of {name}: {first_line(error)}") from error
    if modes not in ({"mean"}, {"cls"}):
        raise RainError(f"--encoder {name} pools by {', '.join(sorted(modes)) or 'nothing'}; RAIN knows mean and cls")
    return modes == {"cls"}


def _pooling_file(source: Path | str) -> str | None:
    """Return the text of an encoder's pooling file, None if it has none."""
    if isinstance(source, Path):
        path = source / POOLING
        return path.read_text(encoding="utf-8") if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source, POOLING, local_files_only=not hub_reachable())).read_text(encoding="utf-8")
    except (EntryNotFoundError, OSError):
        return None


def _pooling_modes(data: Any) -> set[str]:
    """Return the modes that are switched on, in the words of older versions of the format or of newer ones."""
    mode = data.get("pooling_mode")
    if mode is not None:
        return {mode} if isinstance(mode, str) else set(mode)
    return {name.removeprefix("pooling_mode_") for name, on in data.items() if name.startswith("pooling_mode_") and on}
