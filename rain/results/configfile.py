"""The configuration that stands beside the results: reading it, naming it by a hash, telling two of them apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rain.core.errors import RainError
from rain.results.jsonl import encode_json

_ABSENT = "absent"
_SHOWN_FIELDS = 4


def read_config(outdir: Path) -> dict[str, Any]:
    """Return the configuration of a run, its hash included.

    Raises:
        RainError: config.json is missing or is not a JSON object.
    """
    file = outdir / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise RainError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise RainError(f"{file} is not JSON ({error}); give another --outdir") from error
    if not isinstance(config, dict):
        raise RainError(f"{file} is not a JSON object; give another --outdir")
    return config


def config_hash(config: Mapping[str, Any], volatile: Collection[str] = ()) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the canonical JSON of a configuration.

    Args:
        config: JSON values in nested mappings.
        volatile: dotted names of the fields that do not count.
    """
    fields = {name: value for name, value in _flatten(json.loads(encode_json(config))).items() if name not in volatile}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """Name the fields that differ, with both values; an empty text if none does.

    Args:
        old: the configuration of the results that are there; JSON values in nested mappings.
        new: the configuration of this run.
        ignored: dotted names of fields that may differ.
    """
    before, now = _flatten(old), _flatten(new)
    names = [n for n in {**before, **now} if n not in ignored and before.get(n, _ABSENT) != now.get(n, _ABSENT)]
    shown = [f"{name}: {_short(before, name)} there, {_short(now, name)} here" for name in names[:_SHOWN_FIELDS]]
    more = [f"and {len(names) - _SHOWN_FIELDS} more fields"] if len(names) > _SHOWN_FIELDS else []
    return "; ".join(shown + more)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _short(config: Mapping[str, Any], name: str) -> str:
    text = json.dumps(config[name], ensure_ascii=False) if name in config else _ABSENT
    return text if len(text) <= 60 else text[:57] + "..."
