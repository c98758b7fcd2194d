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
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="The --output folder that the shards of a run share.")
    ] = RunConfig.output,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Combine the finished shards of camcli run --shard into one run, as if one machine had made it.

    [dim]All shards must be finished. They are kept and can be resumed. Overlays are hard links if the file system has them.[/dim]
    """
    from camcli.runs.merge import merge_shards

    merged = merge_shards(folder)
    console = Console(quiet=quiet)
    console.info(
        f"{count_words(merged.parts, 'shard')} combined in {escape_name(folder)}: "
        f"{count_words(merged.explained, 'image')} explained."
    )
    if merged.failed:
        console.error(failed_words(merged.failed, folder))
        raise typer.Exit(1)  # the exit code of the whole run
