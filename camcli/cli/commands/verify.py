"""``camcli verify``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from camcli.addresses import is_address
from camcli.cli.command import command
from camcli.cli.console import Console, print_table
from camcli.cli.summary import failed_before_words
from camcli.config.run import RunConfig
from camcli.records import count_words, escape_name

if TYPE_CHECKING:
    from camcli.output.root import Root


@command("verify", "Finished runs")
def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of camcli run.")] = RunConfig.output,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Also check that the input images still exist and have not changed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Check that the journal, tables and files of an output folder agree. Prints a line per problem; exit code 1 if there is one.

    [dim]Nothing is changed. To repair the folder, run the command again that made it.[/dim]
    """
    from camcli.runs.verify import missing_parts, run_folders, verify_folder

    folders = run_folders(folder)
    problems = [
        (_place(os.path.relpath(run.path, folder), problem.file), problem.problem)
        for run in folders
        for problem in verify_folder(run, with_inputs=inputs)
    ]
    console = Console(quiet=quiet)
    if problems:
        if not quiet:
            print_table(("file", "problem"), problems)
        console.info(
            f"{count_words(len(problems), 'problem')} in {escape_name(folder)}. To repair it, run the command again that made it."
        )
        raise typer.Exit(1)
    console.info(f"{escape_name(folder)}: journal, tables and files agree{missing_parts(folders)}.")
    failed = _failed_images(folders)
    if failed:
        console.info(failed_before_words(failed, folder))


def _place(run: str, file: str) -> str:
    """A file of ``run`` seen from the folder that is verified; an address is left as it is."""
    return file if is_address(file) else os.path.normpath(os.path.join(run, file))


def _failed_images(runs: Sequence[Root]) -> int:
    """The number of failed images in ``runs``, from their records; the sum over shards if they are not merged."""
    from camcli.output.names import shard_of_name
    from camcli.output.record import part_of, read_record

    whole = [run for run in runs if not shard_of_name(os.path.basename(run.path))]
    counts = [part_of(read_record(run), "images").get("failed") for run in whole or runs]
    return sum(count for count in counts if type(count) is int)
