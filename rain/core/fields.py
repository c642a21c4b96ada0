"""Fields of configuration dataclasses: default, help, range and choices in one place; command-line flags read them."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any

from rain.core.errors import RainError


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    basic: bool = False,
) -> Any:
    """Return a dataclass field.

    Args:
        default: of the field and of its flag.
        help: one line, without the default.
        low: smallest number allowed; None: no bound.
        high: largest number allowed; None: no bound.
        choices: what a text may be; empty: anything.
        basic: whether everybody needs the flag; ``--help`` shows those first.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices), "basic": basic}
    return dataclasses.field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.replace("_", "-")


SIMPLE = {int: (Integral, "an integer"), float: (Real, "a number"), str: (str, "a text"), bool: (bool, "True or False")}
"""What a field of a type may be, and how messages call it."""


@cache
def _hints(config: Any) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _is_of(value: Any, kind: Any) -> bool:
    """Tell whether a value is of the type of a field: a simple one, a tuple of one, or one of several."""
    if typing.get_origin(kind) is tuple:
        return isinstance(value, (tuple, list)) and all(_is_of(each, typing.get_args(kind)[0]) for each in value)
    if isinstance(kind, types.UnionType):
        return any(_is_of(value, part) for part in typing.get_args(kind))
    if isinstance(value, bool):  # which Python counts among the integers
        return kind is bool
    return isinstance(value, SIMPLE[kind][0] if kind in SIMPLE else kind)


def _named(kind: Any) -> str:
    """Return how messages call a type."""
    if typing.get_origin(kind) is tuple:
        return f"a tuple of {SIMPLE[typing.get_args(kind)[0]][1].split()[-1]}s, at least one"
    parts = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return " or ".join("None" if part is type(None) else SIMPLE[part][1] for part in parts)


def validate(config: Any) -> None:
    """Check every field of a configuration against its type, range and choices.

    Raises:
        RainError: a value is of another type, outside of its range or not one of the choices; the message names the
            flag.
    """
    kind: Any = type(config)
    hints = _hints(kind)
    for field in dataclasses.fields(config):
        value, rules = getattr(config, field.name), field.metadata
        if not _is_of(value, hints[field.name]) or (value in ((), []) and field.default):
            raise RainError(f"{flag(field.name)} is {value!r}; it must be {_named(hints[field.name])}")
        choices = rules.get("choices", ())
        if choices and value not in choices:
            raise RainError(f"{flag(field.name)} is {value!r}; it must be one of {', '.join(choices)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low, high = rules.get("low"), rules.get("high")
        if math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high):
            continue
        if low is not None and high is not None:
            wanted = f"between {low:g} and {high:g}"
        else:
            wanted = "finite" if low is None else f"at least {low:g}"
        raise RainError(f"{flag(field.name)} is {value}; it must be {wanted}")
