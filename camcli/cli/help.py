"""The pages of ``--help``: plain text without cut names at any width, with the most common options first."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

COMMON = ("model", "layer", "method", "topk", "class", "output", "batch-size", "device")
"""Long names of the options that every page shows first, in this order."""

COMMON_PANEL = "Common"
"""The heading of the common options."""

_MARKUP = re.compile(r"\[/?dim\]")
_TYPE, _BRACES, _DEFAULT = re.compile(r" <.*>$"), re.compile(r"\{(\w+)\}"), re.compile(r"\[default: \((.*)\)\]")
_RANGE = re.compile(r"; [^\];]*x[<>]=[^\];]*(?=\])|\s*\[[^\];]*x[<>]=[^\];]*\]")
"""What Typer adds to an argument: its type in Python, braces around one that is required, parentheses around its default; and to
an option its range, which the sentence says in words."""


class HelpedCommand(TyperCommand):
    """A command whose help has a section for each panel of options. Names of options are never cut."""

    def __init__(self, *arguments: Any, help: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, help=help and _MARKUP.sub("", help), **options)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections: arguments, common options, the other panels in their order, options without a panel."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], COMMON_PANEL: []}
        rest: list[tuple[str, str]] = []
        for parameter in sorted(self.get_params(ctx), key=_place):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panel = _panel(parameter)
                name = _TYPE.sub("", record[0]) if panel == "Arguments" else record[0]
                record = (name, _RANGE.sub("", _DEFAULT.sub(r"[default: \1]", record[1])))
                (panels.setdefault(panel, []) if panel else rest).append(record)
        for name, records in {**panels, "Options": rest}.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the line of usage, with arguments by their plain names."""
        return [_BRACES.sub(r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, without cutting it; the list of commands wraps it."""
        text = " ".join((self.help or "").split("\n\n")[0].split())
        return re.split(r"(?<=:) |(?<=\.) (?=[A-Z])", text)[0].rstrip(":.") + "."


class HelpedGroup(TyperGroup):
    """The help of the program, with the commands in their sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel of commands, in the order in which the commands were added."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            found: Any = self.get_command(ctx, name)
            panels.setdefault(found.rich_help_panel, []).append((name, found.get_short_help_str()))
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def _place(parameter: Any) -> int:
    """The sort key of an option: common options in the order of COMMON, all others unchanged after them."""
    return next((place for place, name in enumerate(COMMON) if f"--{name}" in parameter.opts), len(COMMON))


def _panel(parameter: Any) -> str | None:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return COMMON_PANEL if _place(parameter) < len(COMMON) else getattr(parameter, "rich_help_panel", None)
