"""``camcli report``."""

from __future__ import annotations

from typing import Annotated

import typer

from camcli.cli.command import command
from camcli.cli.console import Console
from camcli.cli.signals import SIGNALS
from camcli.cli.summary import tell_report
from camcli.config.run import RunConfig


@command("report", "Finished runs")
def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of camcli run.")] = RunConfig.output,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Write an HTML report of a run to DIR/report.html, with data and thumbnails in DIR/report. Open it in a browser.

    [dim]The report works offline. Run the command again to update it; only changed files are written. Values under the mouse
    pointer, and sorting by entropy or share at the border, need the raw maps of camcli run --save-maps.[/dim]
    """
    from camcli.report.write import report_run

    console = Console(quiet=quiet)
    with SIGNALS.deferred(console.interrupt_message("Stopping after the images in progress")) as stop:
        written = report_run(folder, stop)
    tell_report(written, folder, console)
    if SIGNALS.number is not None:
        raise typer.Exit(128 + SIGNALS.number)
