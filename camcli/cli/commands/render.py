"""``camcli render``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console
from camcli.cli.options import changed_settings, config_parameters, take_parameters
from camcli.config.run import LOOKS, RunConfig
from camcli.records import count_words, escape_name


def render_command() -> Callable[..., None]:
    """The command's function, with an option for each setting that changes how overlays look."""

    def render(context: typer.Context, folder: str, quiet: bool = False, **values: Any) -> None:
        """Redraw the overlays of a run in another style, from its stored maps and without the model.

        [dim]The run must have been made with --save-maps. Options that are not given keep their present values.[/dim]
        """
        _render(folder, changed_settings(context, values), Console(quiet=quiet))

    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    about_folder = typer.Argument(metavar="DIR", help="Output folder of camcli run --save-maps.")
    about_quiet = typer.Option("--quiet", "-q", help="Print errors only.")
    parameters = [
        inspect.Parameter("context", positional, annotation=typer.Context),
        inspect.Parameter("folder", positional, default=RunConfig.output, annotation=Annotated[str, about_folder]),
        *config_parameters(LOOKS),
        inspect.Parameter("quiet", keyword, default=False, annotation=Annotated[bool, about_quiet]),
    ]
    return take_parameters(render, parameters)


def _render(folder: str, changes: dict[str, Any], console: Console) -> None:
    from camcli.runs.rerender import redraw

    with console.bar() as tell:
        drawn = redraw(folder, changes, tell)
    console.info(f"{count_words(drawn.overlays, 'overlay')} redrawn in {escape_name(folder)}.")
    for image, reason in drawn.left[:5]:
        console.info(f"camcli: {escape_name(image)}: {escape_name(reason)}")
    if drawn.left:
        console.error(f"{count_words(len(drawn.left), 'image')} kept their present overlays.")
        raise typer.Exit(1)


command("render", "Finished runs")(render_command())
