"""Turning a dataclass of options into parameters of a Typer command, and the given values into a RunConfig."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import typer

from camcli.cli.completion import completion_of, models
from camcli.config.field import REQUIRED, check_value, option_fields, option_name
from camcli.config.run import RunConfig
from camcli.config.toml import read_config_file
from camcli.errors import ConfigError

_KINDS: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": float}


def config_parameters(only: Collection[str] | None = None, config: Any = RunConfig) -> list[inspect.Parameter]:
    """A keyword parameter with Typer annotations for each field of ``config``, or for the options named in ``only``.

    ``config``: RunConfig, or another dataclass whose fields ``camcli.config.field.option`` has made.
    """
    return [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=_typer_default(field), annotation=_annotation(field))
        for field in option_fields(config)
        if only is None or option_name(field) in only
    ]


def options_of(names: Collection[str]) -> list[str]:
    """The names of the fields of RunConfig with the options ``names``."""
    return [field.name for field in option_fields(RunConfig) if option_name(field) in names]


def _typer_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is REQUIRED:
        return inspect.Parameter.empty
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _annotation(field: dataclasses.Field[Any]) -> Any:
    name, meta, kind = option_name(field), field.metadata, str(field.type)
    flags = [f"--{name}"]
    if kind == "bool":  # both flags, so that the command line can undo a TOML file
        flags = [f"--{name}/--no-{name}"]
    flags += [f"--{alias}" for alias in meta["aliases"]]
    if meta["short"]:
        flags.append(meta["short"])
    many = kind.startswith("tuple")
    python_type = str if many else _KINDS[kind.split(" ")[0]]
    option = typer.Option(
        *flags,
        help=meta["help"],
        metavar=meta["metavar"] if kind != "bool" else None,
        rich_help_panel=meta["panel"],
        show_default=field.default not in (None, (), REQUIRED) and kind != "bool",
        autocompletion=completion_of(name, meta["choices"]),
        parser=_number_or(meta["none_word"]) if meta["none_word"] else None,
    )
    if many:
        return Annotated[list[str], option]
    return Annotated[python_type | None if "None" in kind else python_type, option]


def _number_or(word: str) -> Callable[[str], int | None]:
    def parse(value: str | int) -> int | None:  # Typer parses the default too
        if str(value).lower() == word:
            return None
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"{value!r} is neither a whole number nor {word}") from None

    return parse


MODEL_ARGUMENT = typer.Argument(
    metavar="MODEL", help="Model, as for camcli run --model.", show_default=RunConfig.model, autocompletion=models
)
"""The model as an argument, for commands without images. ``MODEL_OPTION`` is the same as an option, as in camcli run."""

MODEL_OPTION = typer.Option(
    "--model",
    "-m",
    metavar="NAME",
    help="The same as the argument MODEL.",
    show_default=False,
    autocompletion=models,
)


def named_model(argument: str | None, option: str | None) -> str:
    """The model from ``MODEL_ARGUMENT`` or ``MODEL_OPTION``, else the default. Raises ConfigError for two different models."""
    if argument is not None and option is not None and argument != option:
        raise ConfigError(f"MODEL {argument!r} and --model {option!r} are two models; name one.")
    return argument or option or RunConfig.model


def take_parameters(function: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """``function``, with ``parameters`` as its signature for Typer."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def _given(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """The ``values`` that are given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in values}
    # compare names: Typer has its own copy of Click's enum
    return {name: values[name] for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def given_options(context: typer.Context, values: Mapping[str, Any]) -> set[str]:
    """The names of the ``values`` that are given on the command line."""
    return set(_given(context, values))


def changed_settings(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options given on the command line: name -> value. Raises ConfigError for a value outside its limits."""
    given = _given(context, values)
    fields = [field for field in option_fields(RunConfig) if field.name in given]
    for field in fields:
        check_value(field, given[field.name])
    return {option_name(field): given[field.name] for field in fields}


def gathered_config(context: typer.Context, config_file: str | None, values: Mapping[str, Any]) -> RunConfig:
    """The config from the command line, else from the TOML file ``config_file``, else the defaults. Raises ConfigError."""
    merged = read_config_file(config_file) if config_file is not None else {}
    for name, value in _given(context, values).items():
        merged[name] = tuple(value) if isinstance(value, list) else value
    return RunConfig(**merged).check()
