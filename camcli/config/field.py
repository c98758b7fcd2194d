"""What an option is: a dataclass field that knows its help, its limits and its name on the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from camcli.errors import ConfigError, did_you_mean

Options = TypeVar("Options")

REQUIRED: Any = dataclasses.MISSING
"""The default of an option that has none: it must be given."""


def option(
    default: Any,
    help: str,
    panel: str,
    *,
    name: str | None = None,
    short: str | None = None,
    aliases: tuple[str, ...] = (),
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    none_word: str | None = None,
    affects_results: bool = True,
) -> Any:
    """A field of a dataclass of options, such as RunConfig. ``default``: REQUIRED for an option that must be given.

    ``name``: the option's long name where it is not that of the field; ``aliases``: other long names. ``none_word``: how a user
    says None. ``affects_results``: a folder made with another value cannot be continued.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "panel": panel,
            "name": name,
            "short": short,
            "aliases": aliases,
            "metavar": metavar or ("|".join(choices) if choices else None),
            "choices": choices,
            "at_least": at_least,
            "at_most": at_most,
            "none_word": none_word,
            "affects_results": affects_results,
        },
    )


def option_name(field: dataclasses.Field[Any]) -> str:
    """The option's long name without the dashes: ``batch-size`` for ``batch_size``, ``class`` for ``class_``."""
    return str(field.metadata["name"] or field.name.rstrip("_").replace("_", "-"))


def option_fields(options: Any) -> list[dataclasses.Field[Any]]:
    """The fields of ``options``, a dataclass or its type, that ``option`` has made."""
    return [field for field in dataclasses.fields(options) if "affects_results" in field.metadata]


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ConfigError when ``value`` is outside the field's choices or limits."""
    name, meta = option_name(field), field.metadata
    if value is None:
        return
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(
            f"--{name} {value!r} is not one of {', '.join(meta['choices'])}.{did_you_mean(str(value), meta['choices'])}"
        )
    if any("\0" in text for text in (value if isinstance(value, tuple) else (value,)) if isinstance(text, str)):
        raise ConfigError(f"--{name} contains a NUL, which no name can.")
    low, high = meta["at_least"], meta["at_most"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"--{name} {value} must be {bounds}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--{name} {value} must be a finite number.")
    if field.default != "" and value == "":
        raise ConfigError(f"--{name} is empty.")


def as_json(field: dataclasses.Field[Any], value: Any) -> Any:
    """The field's value as JSON: lists for tuples, and for None the word that a user says."""
    if value is None:
        return field.metadata["none_word"]
    return list(value) if isinstance(value, tuple) else value


def from_json(field: dataclasses.Field[Any], value: Any) -> Any:
    """The field's value from what ``as_json`` gave. Raises ConfigError for what it cannot have given."""
    if value == field.metadata["none_word"]:  # None where the option has no such word
        return None
    kind = str(field.type)
    if kind.startswith("tuple"):
        right = isinstance(value, list) and all(isinstance(item, str) for item in value)
        value = tuple(value) if right else value
    else:
        wanted = {"str": (str,), "bool": (bool,), "int": (int,), "float": (float, int)}[kind.split(" ")[0]]
        right = type(value) in wanted
    if not right:
        raise ConfigError(f"{option_name(field)} cannot be {value!r}.")
    check_value(field, value)
    return value


def default_values(options: Any) -> dict[str, Any]:
    """Name -> JSON value of each option's default, of those that affect results.

    ``options``: a dataclass of options, or its type.
    """
    return {
        option_name(field): as_json(field, field.default) for field in option_fields(options) if field.metadata["affects_results"]
    }


def with_values(options: Options, values: Mapping[str, Any]) -> Options:
    """``options``, a dataclass of options, with those of ``values`` (name -> JSON value) changed. Raises ConfigError."""
    given = cast(Any, options)
    fields = {option_name(field): field for field in option_fields(given)}
    changes = {fields[name].name: from_json(fields[name], value) for name, value in values.items()}
    return cast(Options, dataclasses.replace(given, **changes))


def check_values(options: Any) -> None:
    """Raise ConfigError when a value of ``options``, a dataclass of options, is outside its choices or limits."""
    for field in option_fields(options):
        check_value(field, getattr(options, field.name))


def binding_values(options: Any) -> dict[str, Any]:
    """Name -> JSON value of each option of ``options``, a dataclass of options, that affects results."""
    return {
        option_name(field): as_json(field, getattr(options, field.name))
        for field in option_fields(options)
        if field.metadata["affects_results"]
    }
