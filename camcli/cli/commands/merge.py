"""``camcli merge``."""

from __future__ import annotations

from typing import Annotated

import typer

from camcli.cli.command import command
from camcli.cli.console import Console
from camcli.cli.summary import failed_words
from camcli.config.run import RunConfig
from camcli.records import count_words, escape_name


@command("merge", "Finished runs")
def merge(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The --output that the parts of a run share.")] = RunConfig.output,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Join the parts that camcli run --shard left in a folder into one run, as if one machine had made it.

    [dim]All parts must be there and finished. They stay and can go on; overlays are hard links where there are such.[/dim]
    """
    from camcli.runs.merge import merge_shards

    merged = merge_shards(folder)
    console = Console(quiet=quiet)
    console.info(
        f"{count_words(merged.parts, 'part')} joined in {escape_name(folder)}: {count_words(merged.explained, 'image')} explained."
    )
    if merged.failed:
        console.error(failed_words(merged.failed, folder))
        raise typer.Exit(1)  # as the run would have ended
