"""An option: a dataclass field with its help text, its limits and its name on the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from camcli.errors import ConfigError, did_you_mean

Options = TypeVar("Options")

REQUIRED: Any = dataclasses.MISSING
"""Stands for the default of an option that the user must give."""


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
    """A field for a dataclass of options, such as RunConfig. ``default``: REQUIRED for an option that the user must give.

    ``name``: the long name of the option, if it differs from the field's; ``aliases``: other long names. ``none_word``: the word
    that a user writes for None. ``affects_results``: whether a run with another value must not resume in the same output folder.
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
    """The long name of the option without dashes: ``batch-size`` for ``batch_size``, ``class`` for ``class_``."""
    return str(field.metadata["name"] or field.name.rstrip("_").replace("_", "-"))


def option_fields(options: Any) -> list[dataclasses.Field[Any]]:
    """The fields that ``option`` has made. ``options``: a dataclass or its type."""
    return [field for field in dataclasses.fields(options) if "affects_results" in field.metadata]


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ConfigError when ``value`` is outside the field's choices or limits."""
    name, meta = option_name(field), field.metadata
    if value is None:
        return
    for each in value if isinstance(value, tuple) else (value,):
        if meta["choices"] and each not in meta["choices"]:
            raise ConfigError(
                f"--{name} {each!r} is not one of {', '.join(meta['choices'])}.{did_you_mean(str(each), meta['choices'])}"
            )
    if any("\0" in text for text in (value if isinstance(value, tuple) else (value,)) if isinstance(text, str)):
        raise ConfigError(f"--{name} contains a NUL character, which no name can contain.")
    low, high = meta["at_least"], meta["at_most"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"--{name} {value} must be {bounds}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--{name} {value} must be a finite number.")
    if field.default != "" and value == "":
        raise ConfigError(f"--{name} is empty.")


def as_json(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value of the field as JSON: a list for a tuple, and the option's ``none_word`` for None."""
    if value is None:
        return field.metadata["none_word"]
    return list(value) if isinstance(value, tuple) else value


def from_json(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value of the field, read from what ``as_json`` returned. Raises ConfigError for anything that it cannot return."""
    if value == field.metadata["none_word"]:  # both are None when the option has no such word
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
    """The defaults of the options that affect results: name -> JSON value. ``options``: a dataclass of options, or its type."""
    return {
        option_name(field): as_json(field, field.default) for field in option_fields(options) if field.metadata["affects_results"]
    }


def with_values(options: Options, values: Mapping[str, Any]) -> Options:
    """A copy of the dataclass ``options`` with ``values`` (name -> JSON value) set. Raises ConfigError for an invalid value."""
    given = cast(Any, options)
    fields = {option_name(field): field for field in option_fields(given)}
    changes = {fields[name].name: from_json(fields[name], value) for name, value in values.items()}
    return cast(Options, dataclasses.replace(given, **changes))


def check_values(options: Any) -> None:
    """Raise ConfigError when a value in the dataclass ``options`` is outside its choices or limits."""
    for field in option_fields(options):
        check_value(field, getattr(options, field.name))


def binding_values(options: Any) -> dict[str, Any]:
    """The values in the dataclass ``options`` that affect results: name -> JSON value."""
    return {
        option_name(field): as_json(field, getattr(options, field.name))
        for field in option_fields(options)
        if field.metadata["affects_results"]
    }
