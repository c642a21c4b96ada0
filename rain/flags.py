"""Command-line flags out of settings dataclasses: one source, one default."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def add_flags(parser: argparse.ArgumentParser, cls: type[Any], defaults: Mapping[str, Any], title: str) -> None:
    """Add one flag for each field of a settings dataclass; flags that are not given leave no trace in the namespace.

    Args:
        parser: where the flags go.
        cls: a dataclass whose fields were made by ``rain.core.config.setting``.
        defaults: what the help shows instead of the dataclass's own defaults.
        title: of the group in the help.
    """
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = defaults.get(field.name, field.default)
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        options["help"] = field.metadata["help"] + (f" (default: {shown})" if shown not in ("", None) else "")
        kind = hints[field.name]
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            options |= {"nargs": "+", "type": typing.get_args(kind)[0]}
        elif isinstance(kind, types.UnionType):
            options["type"] = next(part for part in typing.get_args(kind) if part is not type(None))
        else:
            options["type"] = kind
        options["help"] = options["help"].replace("%", "%%")
        group.add_argument("--" + field.name.replace("_", "-"), **options)


def build(cls: type[Settings], *layers: Mapping[str, Any]) -> Settings:
    """Make a settings object; later layers win, names that are no field of it are passed over."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {name: value for layer in layers for name, value in layer.items() if name in names}
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def changed(settings: Any) -> dict[str, Any]:
    """Return the fields of a settings object that differ from the defaults of its class."""
    fields: Sequence[dataclasses.Field[Any]] = dataclasses.fields(settings)
    return {
        field.name: getattr(settings, field.name) for field in fields if getattr(settings, field.name) != field.default
    }
