"""The table of commands. Each module in ``camcli.cli.commands`` registers its own commands; there is no other list of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from camcli.cli import commands

SECTIONS = ("Heatmaps", "Models, layers, classes, methods", "Finished runs", "Train and examine networks")
"""The sections of ``camcli --help``, in their order."""

CommandFunction = Callable[..., None]
"""A function that Typer turns into a command: its parameters are the options, its docstring is the help."""


@dataclass(frozen=True)
class Command:
    """A command of the command line. ``section``: the one of ``SECTIONS`` in which ``camcli --help`` lists it."""

    name: str
    section: str
    function: CommandFunction


_REGISTERED: dict[str, Command] = {}


def command(name: str, section: str) -> Callable[[CommandFunction], CommandFunction]:
    """A decorator that registers a function as the command ``name``. Raises ValueError for a taken name or an unknown section."""
    if section not in SECTIONS:
        raise ValueError(f"{section!r} is not one of {SECTIONS}")

    def register(function: CommandFunction) -> CommandFunction:
        if name in _REGISTERED:
            raise ValueError(f"command {name!r} is registered twice")
        _REGISTERED[name] = Command(name, section, function)
        return function

    return register


def all_commands() -> list[Command]:
    """All commands, sorted by section and name."""
    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        importlib.import_module(module.name)
    return sorted(_REGISTERED.values(), key=lambda found: (SECTIONS.index(found.section), found.name))
