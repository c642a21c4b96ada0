"""How two configurations differ, for the user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_ABSENT = "absent"
_SHOWN_FIELDS = 4


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the fields in which two configurations differ, with both values; an empty text if none does.

    Args:
        old: the configuration of the existing results; JSON values in nested mappings.
        new: the configuration of this run.
    """
    before, now = _flatten(old), _flatten(new)
    names = [name for name in {**before, **now} if before.get(name, _ABSENT) != now.get(name, _ABSENT)]
    parts = [f"{name}: {shown(before, name)} there, {shown(now, name)} here" for name in names[:_SHOWN_FIELDS]]
    more = [f"and {len(names) - _SHOWN_FIELDS} more fields"] if len(names) > _SHOWN_FIELDS else []
    return "; ".join(parts + more)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def shown(config: Mapping[str, Any], name: str) -> str:
    """Return the value of a field, shortened."""
    text = json.dumps(config[name], ensure_ascii=False) if name in config else _ABSENT
    return text if len(text) <= 60 else text[:57] + "..."
