"""Command-line flags from configuration dataclasses: one source, one default."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from rain.core.errors import RainError
from rain.core.fields import flag

ConfigT = TypeVar("ConfigT")


class Parser(argparse.ArgumentParser):
    """A parser of flags that are given in full; what it cannot read is a RainError of one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise RainError(f"{message}; see {self.prog} --help")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Refuse words that are no flags, and name the flag that one of them resembles."""
        flags = list(self._option_string_actions)
        meant = [flag for flag in flags if flag.startswith(unknown[0])] or get_close_matches(unknown[0], flags, 1, 0.75)
        self.error(f"unknown: {' '.join(unknown)}" + (f" (did you mean {meant[0]}?)" if meant else ""))

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """Parse words; a RainError names those that are unknown."""
        found, unknown = self.parse_known_args(*args, **options)
        return self.refuse(unknown) if unknown else found


def add_flags(
    parser: argparse.ArgumentParser,
    config: type[Any],
    defaults: Mapping[str, Any],
    title: str,
    basic: argparse._ArgumentGroup | None = None,
) -> None:
    """Add one flag for each field of a configuration; flags that are not given leave no trace in the namespace.

    Args:
        parser: where the flags go.
        config: a dataclass whose fields were made by ``rain.core.fields.setting``.
        defaults: what the help shows instead of the dataclass's own defaults.
        title: of the group in the help.
        basic: the group of the flags that everybody needs; None: they stay in their own group.
    """
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        place = basic if basic and field.metadata["basic"] else group
        place.add_argument(flag(field.name), **_options(field, hints[field.name], defaults))


def _options(field: dataclasses.Field[Any], kind: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` for a field; ranges and choices are checked by the configuration."""
    default = defaults.get(field.name, field.default)
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    help_text = field.metadata["help"] + (f" (default: {shown})" if shown not in ("", None) else "")
    options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": help_text.replace("%", "%%")}
    if kind is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if choices := field.metadata["choices"]:
        options["metavar"] = f"{{{','.join(choices)}}}"
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]  # texts may be given flag by flag, numbers belong together
        return options | {"nargs": "+", "type": kind, "action": "extend" if kind is str else "store"}
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    return options | {"type": kind}


def build(cls: type[ConfigT], *layers: Mapping[str, Any]) -> ConfigT:
    """Make a configuration; later layers win, names that are not its fields are ignored.

    Where a field takes several texts, a single one will do.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    several = {field.name: isinstance(field.default, tuple) for field in fields}
    values = {name: value for layer in layers for name, value in layer.items() if name in several}
    values |= {name: (value,) for name, value in values.items() if several[name] and isinstance(value, str)}
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
