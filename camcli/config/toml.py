"""Reading the options of RunConfig from a TOML file."""

from __future__ import annotations

import dataclasses
from typing import Any

from camcli.config.field import check_value, option_name
from camcli.config.run import RunConfig
from camcli.documents import MOST_TOML_BYTES, parse_toml, read_text
from camcli.errors import ConfigError, did_you_mean
from camcli.records import escape_name


def read_config_file(path: str) -> dict[str, Any]:
    """The values in a TOML file whose keys are the long names of options: field name -> value.

    Raises ConfigError, with the name of the file, for a missing file, invalid TOML, an unknown key, or a value of the wrong type.
    """
    try:
        table = parse_toml(read_text(path, MOST_TOML_BYTES))
    except OSError as error:
        raise ConfigError(f"--config {escape_name(path)}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"--config {escape_name(path)} is not valid TOML: {error}.") from error
    fields = {option_name(field): field for field in dataclasses.fields(RunConfig)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise ConfigError(f"{escape_name(path)}: there is no option {key!r}.{did_you_mean(key, fields)}")
        try:
            values[fields[key].name] = _coerced(fields[key], value)
            check_value(fields[key], values[fields[key].name])
        except ConfigError as error:
            raise ConfigError(f"{escape_name(path)}: {error}") from error
    return values


def _coerced(field: dataclasses.Field[Any], value: Any) -> Any:
    """The TOML value converted to the type of the field; a single value becomes a list of one. Raises ConfigError."""
    kind = str(field.type)
    if kind.startswith("tuple"):
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) or (field.name == "class_" and type(item) is int) for item in items):
            return tuple(str(item) for item in items)
        raise ConfigError(f"{option_name(field)} must be a list of strings, not {value!r}.")
    if value == field.metadata["none_word"] is not None:
        return None
    wanted = {"str": str, "bool": bool, "int": int, "float": float}[kind.split(" ")[0]]
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{option_name(field)} must be {_TYPE_WORDS[wanted]}, not {value!r}.")
    return value


_TYPE_WORDS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}
