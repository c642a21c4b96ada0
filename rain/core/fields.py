"""Fields of configuration dataclasses: default, help, range and choices in one place; command-line flags read them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
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


def validate(config: Any) -> None:
    """Check every field of a configuration against its range and choices.

    Raises:
        RainError: a value is outside of its range or not one of the choices; the message names the flag.
    """
    for field in dataclasses.fields(config):
        value, rules = getattr(config, field.name), field.metadata
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
